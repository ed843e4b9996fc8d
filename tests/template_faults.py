"""Faults that are put into a copy of the cloud templates, and what a check must say of each."""

# By file: what is changed in it, into what, and a part of the sentence.
MUTATIONS: dict[str, list[tuple[str, str, str]]] = {
    "azureml/endpoint/deployment-blue.yml": [
        ("request_timeout_ms: 180000", "request_timeout_ms: 999000", "the service takes 1 to 180000"),
        ("request_timeout_ms: 180000", "request_timeout_ms: 60000", "would cut answers off"),
        ("max_concurrent_requests_per_instance: 16", "", "max_concurrent_requests_per_instance is 1"),
        ("failure_threshold: 60", "failure_threshold: 10", "the readiness probe gives 360 s"),
        ("instance_count: 1", "instance_count: 0", "instance_count is below 1"),
        ("instance_count: 1", "instance_count: many", "instance_count"),
    ],
    "azureml/endpoint/deployment-green.yml": [
        ("extraction-server:1", "extraction-sever:1", "nothing here makes extraction-sever"),
        ("endpoint_name: bl-extract", "endpoint_name: bl-extrakt", "no file here makes the endpoint"),
    ],
    "azureml/endpoint/environment.yml": [
        ("path: /score", "path: /predict", "no route of the gateway"),
        ("azureml/endpoint/Dockerfile", "azureml/endpoint/Dockerfil", "is not in the build context"),
        ("    port: 5001\n  readiness", "    port: 8080\n  readiness", "the container listens on 5001"),
    ],
    "azureml/endpoint/Dockerfile": [
        ("vllm-openai:v0.32.0", "vllm-openai:latest", "is not pinned"),
        ("WORKDIR /app", "RUN cd /app", "hadolint DL3003"),
        ("--no-key", "--no-kee", "scripts/serve_container.py has no --no-kee"),
    ],
    "azureml/endpoint/deploy.sh": [
        ('"@$document" "$uri"', '"@$document" $uri', "shellcheck"),
    ],
    "azureml/endpoint/deploy.ps1": [
        ("Remove-Failed\n        throw", "Remove-Failed && throw", "do not exist in Windows PowerShell 5.1"),
        ("$made = -not", "$mad = -not", "$made is used and never set"),
        ("Set-StrictMode -Version 3.0", "", "it must stop at the first failure"),
        ("function Remove-Failed {", "function Remove-Failed", "a bracket closes that was not opened"),
    ],
    "azureml/endpoint/traffic.ps1": [
        ('throw "az ml', "throw az ml", "this is not PowerShell"),
        ("if ($Share -eq 100) {", "if $Share -eq 100 {", "this is not PowerShell"),
        ("update $Flag $Value @at", "update ` \n $Flag $Value @at", "a blank behind a backtick"),
    ],
    "azureml/train/job.yml": [
        ("--patience", "--patient", "scripts/train_lora.py has no --patient"),
        ("scripts/train_lora.py", "scripts/train_lara.py", "scripts/train_lara.py is not there"),
        ("compute: azureml:gpu-spot", "compute: azureml:gpu-spott", "nothing here makes gpu-spott"),
        ("shm_size: 16g", "shm_sise: 16g", "shm_sise"),
    ],
    "azureml/pipeline/pipeline.yml": [
        ("component: components/merge.yml", "component: components/merg.yml", "is not there"),
        ("base: ${{parent.inputs.base}}\n      run", "basis: ${{parent.inputs.base}}\n      run", "not provided"),
    ],
    "azureml/pipeline/components/render.yml": [
        ("--image-max-tokens", "--image-tokens", "scripts/pdf_to_images.py has no --image-tokens"),
        ("entry_script: pdf_to_images.py", "entry_script: pdf_to_image.py", "is not in the code folder"),
    ],
    "azureml/aks/serve/serve.yaml": [
        ("replicas: 1", "replicas: one", "Deployment"),
        ("minAvailable: 1", "minAvailabel: 1", "minAvailabel"),
        ("readinessProbe:", "x-readinessProbe:", "x-readinessProbe"),
        ("path: /health/live", "path: /healthz", "/healthz is no route"),
        ('limits: {memory: 64Gi, nvidia.com/gpu: "1"}', 'limits: {memory: 64Gi, nvidia.com/gpu: "2"}', "must be equal"),
        ("limits: {memory: 64Gi, ", "limits: {", "no memory limit"),
        ("--max-seconds", "--max-second", "has no --max-second"),
    ],
    "azureml/aks/batch/ray.yaml": [
        ("extraction-batch:1", "extraction-batch", "is not pinned"),
    ],
    "azureml/vm/extraction.service": [
        ("--model /srv", "--modell /srv", "has no --modell"),
    ],
    "runpod/train/start.sh": [
        ("--fail-under", "--fail-below", "has no --fail-below"),
        ('"$base" --train', "$base --train", "shellcheck"),
    ],
    "runpod/serve/Dockerfile": [
        ("COPY scripts scripts", "ADD scripts scripts", "hadolint"),
    ],
    ".runpod/hub.json": [
        ('"13.0"', '"12.4"', "must start at 13.0"),
        ('"key": "MODEL_DIR"', '"key": "MODEL_FOLDER"', "nothing reads MODEL_FOLDER"),
    ],
    ".runpod/tests.json": [
        ('"name": "one_page"', '"nam": "one_page"', "a test needs name and input"),
    ],
}
