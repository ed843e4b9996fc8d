<#
Deploy one colour of the endpoint and test it with a document, before any traffic goes there. Stops at the first failure; run again, it
updates what is there. A deployment that fails its test is taken away again, unless -KeepFailed. Windows PowerShell 5.1 and PowerShell 7.

  .\azureml\endpoint\deploy.ps1 -ResourceGroup rg -Workspace ws -Colour blue -Document document.pdf
#>
param(
    [Parameter(Mandatory = $true)][string]$ResourceGroup,
    [Parameter(Mandatory = $true)][string]$Workspace,
    [Parameter(Mandatory = $true)][ValidateSet("blue", "green")][string]$Colour,
    [Parameter(Mandatory = $true)][string]$Document,
    [string]$Endpoint = "bl-extract",
    [switch]$KeepFailed
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = "Stop"
$at = @("--resource-group", $ResourceGroup, "--workspace-name", $Workspace)

# az is a program: PowerShell does not stop when it fails, and its error text would be an exception in 5.1. So each call is looked at.
function Test-Az {
    param([string[]]$Words)
    $ErrorActionPreference = "Continue"
    & az @Words --output none 2>$null
    return ($LASTEXITCODE -eq 0)
}
function Invoke-Az {
    param([string[]]$Words)
    $ErrorActionPreference = "Continue"
    & az @Words
    if ($LASTEXITCODE -ne 0) { throw "az $($Words[0..2] -join ' ') ended with code $LASTEXITCODE" }
}
function Remove-Failed {
    if (-not $KeepFailed) {
        Invoke-Az (@("ml", "online-deployment", "delete", "--name", $Colour, "--endpoint-name", $Endpoint, "--yes") + $at)
    }
}

if (-not (Test-Path -LiteralPath $Document -PathType Leaf)) { throw "no such file: $Document" }
$environmentFile = Join-Path $PSScriptRoot "environment.yml"
$endpointFile = Join-Path $PSScriptRoot "endpoint.yml"
$deploymentFile = Join-Path $PSScriptRoot "deployment-$Colour.yml"

if (-not (Test-Az (@("ml", "environment", "show", "--name", "extraction-server", "--version", "1") + $at))) {
    Invoke-Az (@("ml", "environment", "create", "--file", $environmentFile, "--output", "none") + $at)
}
if (-not (Test-Az (@("ml", "online-endpoint", "show", "--name", $Endpoint) + $at))) {
    Invoke-Az (@("ml", "online-endpoint", "create", "--name", $Endpoint, "--file", $endpointFile, "--output", "none") + $at)
}

$made = -not (Test-Az (@("ml", "online-deployment", "show", "--name", $Colour, "--endpoint-name", $Endpoint) + $at))
if ($made) {
    try {
        Invoke-Az (@("ml", "online-deployment", "create", "--name", $Colour, "--endpoint-name", $Endpoint, "--file", $deploymentFile, "--output", "none") + $at)
    }
    catch {
        & az ml online-deployment get-logs --name $Colour --endpoint-name $Endpoint --lines 100 @at
        Remove-Failed
        throw "$Colour was not made; its log stands above"
    }
}
else {
    Invoke-Az (@("ml", "online-deployment", "update", "--name", $Colour, "--endpoint-name", $Endpoint, "--file", $deploymentFile, "--output", "none") + $at)
}

$uri = Invoke-Az (@("ml", "online-endpoint", "show", "--name", $Endpoint, "--query", "scoring_uri", "--output", "tsv") + $at)
$key = Invoke-Az (@("ml", "online-endpoint", "get-credentials", "--name", $Endpoint, "--query", "primaryKey", "--output", "tsv") + $at)
# The header chooses the deployment, whatever the traffic says.
$headers = @{ "Authorization" = "Bearer $key"; "azureml-model-deployment" = $Colour }
try {
    Invoke-RestMethod -Method Post -Uri $uri -Headers $headers -ContentType "application/pdf" -InFile $Document -TimeoutSec 180 | Out-Null
}
catch {
    if ($made) { Remove-Failed }
    throw "$Colour does not answer $Document as it should: $($_.Exception.Message)"
}
Write-Output "$Colour answers; no traffic goes there yet. Next: .\azureml\endpoint\traffic.ps1 -Colour $Colour -Share 10"
