<#
Send a share of the traffic to one colour and the rest to the other; 100 makes it the only one, 0 is the rollback. -Mirror sends it a copy of
10 % of the requests, whose answers nobody gets.

  .\azureml\endpoint\traffic.ps1 -ResourceGroup rg -Workspace ws -Colour green -Mirror
  .\azureml\endpoint\traffic.ps1 -ResourceGroup rg -Workspace ws -Colour green -Share 10
  .\azureml\endpoint\traffic.ps1 -ResourceGroup rg -Workspace ws -Colour green -Share 0
#>
param(
    [Parameter(Mandatory = $true)][string]$ResourceGroup,
    [Parameter(Mandatory = $true)][string]$Workspace,
    [Parameter(Mandatory = $true)][ValidateSet("blue", "green")][string]$Colour,
    [ValidateRange(0, 100)][int]$Share = 0,
    [switch]$Mirror,
    [string]$Endpoint = "bl-extract"
)
Set-StrictMode -Version 3.0
$ErrorActionPreference = "Stop"
$at = @("--name", $Endpoint, "--resource-group", $ResourceGroup, "--workspace-name", $Workspace, "--output", "none")

function Update-Endpoint {
    param([string]$Flag, [string]$Value)
    $ErrorActionPreference = "Continue"
    & az ml online-endpoint update $Flag $Value @at
    if ($LASTEXITCODE -ne 0) { throw "az ml online-endpoint update $Flag ended with code $LASTEXITCODE" }
}

if ($Mirror) {
    Update-Endpoint "--mirror-traffic" "$Colour=10"
    Write-Output "a copy of 10 % of the requests goes to $Colour"
    return
}
# Mirroring and a share of the same deployment exclude each other.
Update-Endpoint "--mirror-traffic" "$Colour=0"
$other = "blue"
if ($Colour -eq "blue") { $other = "green" }
$traffic = "$Colour=$Share $other=$(100 - $Share)"
if ($Share -eq 100) { $traffic = "$Colour=100" }
Update-Endpoint "--traffic" $traffic
Write-Output "traffic: $traffic"
