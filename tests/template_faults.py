"""Faults that are put into a copy of the cloud templates, and what a check must say of each."""

# By file: what is changed in it, into what, and a part of the sentence. Many restore a line that once stood there and
# would have failed on a paid GPU.
MUTATIONS: dict[str, list[tuple[str, str, str]]] = {
    "azureml/endpoint/deployment.yml": [
        ("request_timeout_ms: 180000", "request_timeout_ms: 999000", "the service takes 1 to 180000"),
        ("request_timeout_ms: 180000", "request_timeout_ms: 60000", "would cut answers off"),
        ("max_concurrent_requests_per_instance: 16", "", "max_concurrent_requests_per_instance is 1"),
        ("failure_threshold: 60", "failure_threshold: 10", "the readiness probe gives 360 s"),
        ("instance_count: 1", "instance_count: 0", "instance_count is below 1"),
        ("instance_count: 1", "instance_count: many", "instance_count"),
        ("extraction-server@latest", "extraction-sever@latest", "nothing here makes extraction-sever"),
        ("extraction-server@latest", "extraction-server:1", "stays the image of that version"),
        ("endpoint_name: bl-extract", "endpoint_name: bl-extrakt", "no file here makes the endpoint"),
    ],
    "azureml/endpoint/environment.yml": [
        ("path: /score", "path: /predict", "no route of the gateway"),
        ("azureml/endpoint/Dockerfile", "azureml/endpoint/Dockerfil", "is not in the build context"),
        ("    port: 5001\n  readiness", "    port: 8080\n  readiness", "the container listens on 5001"),
        ("name: extraction-server", 'name: extraction-server\nversion: "1"', "is never built again"),
    ],
    "azureml/endpoint/Dockerfile": [
        ("vllm-openai:v0.32.0\nFROM", "vllm-openai:latest\nFROM", "is not pinned"),
        ("WORKDIR /app", "RUN cd /app", "hadolint DL3003"),
        ("--no-key", "--no-kee", "scripts/serve_container.py has no --no-kee"),
        ("USER 10001\n", "", "it runs as root"),
        ("USER 10001", "USER root", "it runs as root"),
    ],
    "azureml/batch/Dockerfile": [
        ("requirements/ray.txt /tmp", "requirements/rai.txt /tmp", "COPY requirements/rai.txt: it is not there"),
    ],
    "azureml/batch/job.yml": [
        ("scripts/check_gpu.py --\n", "scripts/check_gpu.py &&\n", "starts without check_gpu.py"),
        ("    mode: rw_mount\n", "", "what an evicted job wrote would be lost"),
    ],
    "azureml/batch/schedule.yml": [
        ("create_job: ./job.yml", "create_job: ./jobb.yml", "jobb.yml"),
        ("type: cron", "type: corn", "corn"),
    ],
    "azureml/train/job.yml": [
        ("--patience", "--patient", "scripts/train_lora.py has no --patient"),
        ("scripts/train_lora.py", "scripts/train_lara.py", "scripts/train_lara.py is not there"),
        ("compute: azureml:gpu-spot", "compute: azureml:gpu-spott", "nothing here makes gpu-spott"),
        ("shm_size: 16g", "shm_sise: 16g", "shm_sise"),
        ("python scripts/check_gpu.py -- ", "", "starts without check_gpu.py"),
        ("qwen3vl-train@latest", "qwen3vl-train:1", "stays the image of that version"),
    ],
    "azureml/train/import-base.yml": [
        ("name: qwen3-vl-8b-instruct\n", "name: qwen3-vl\n", "nothing here makes qwen3-vl-8b-instruct"),
        ("--revision ${{", "--commit ${{", "scripts/download_model.py has no --commit"),
    ],
    "azureml/train/data.yml": [
        (
            "path: ../../data",
            "path: ../../models/Qwen3-VL-8B-Instruct",
            "16 GB would go through your own line",
        ),
    ],
    "azureml/pipeline/pipeline.yml": [
        ("component: components/merge.yml", "component: components/merg.yml", "is not there"),
        ("base: ${{parent.inputs.base}}\n      run", "basis: ${{parent.inputs.base}}\n      run", "not provided"),
        ("  render:\n    type: command", "  render:\n    type: parallel", "parallel"),
    ],
    "azureml/pipeline/components/render.yml": [
        ("--image-max-tokens", "--image-tokens", "scripts/pdf_to_images.py has no --image-tokens"),
        ("commandComponent", "parallelComponent", "a parallel job's driver needs Azure ML packages"),
    ],
    "azureml/pipeline/components/quantize.yml": [
        ("python scripts/check_gpu.py -- ", "", "quantize_awq.py starts without check_gpu.py"),
    ],
    ".amlignore": [
        ("/*\n", "", "data/ would be uploaded"),
        ("!/schemas/\n", "", ".amlignore keeps it out of the build context"),
    ],
    "azureml/aks/serve/serve.yaml": [
        ("replicas: 1", "replicas: one", "Deployment"),
        ("  maxUnavailable: 1\n", "  maxUnavailabel: 1\n", "maxUnavailabel"),
        ("readinessProbe:", "x-readinessProbe:", "x-readinessProbe"),
        ("path: /health/live", "path: /healthz", "/healthz is no route"),
        ('limits: {memory: 64Gi, nvidia.com/gpu: "1"}', 'limits: {memory: 64Gi, nvidia.com/gpu: "2"}', "must be equal"),
        ("limits: {memory: 64Gi, ", "limits: {", "no memory limit"),
        ("--max-seconds", "--max-second", "has no --max-second"),
        ("workload: extraction-gpu", "kubernetes.azure.com/accelerator: nvidia", "the prefix is AKS's own"),
        ("{maxSurge: 0, maxUnavailable: 1}", "{maxSurge: 1, maxUnavailable: 0}", "where no second GPU is free"),
        ("progressDeadlineSeconds: 2700", "progressDeadlineSeconds: 600", "is below the start's 1860 s"),
        ("failureThreshold: 372", "failureThreshold: 300", "the startup probe gives 1500 s"),
        ("  maxUnavailable: 1\n", "  minAvailable: 1\n", "the node could never be upgraded"),
        ("{protocol: TCP, port: 9090}", "{protocol: TCP, port: 9091}", "keeps Prometheus away from port 9090"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is not set"),
        (
            "{name: EXTRACTION_API_KEY_FILE, value: /run/secrets/extraction/api-key}",
            "{name: EXTRACTION_API_KEY, valueFrom: {secretKeyRef: {name: extraction, key: api-key}}}",
            "is a secret in the environment",
        ),
        (
            "apiVersion: apps/v1",
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: models, namespace: extraction}\nspec:\n"
            "  accessModes: [ReadWriteMany]\n  resources: {requests: {storage: 1Gi}}\n---\napiVersion: apps/v1",
            "it starts without a model and holds the GPU",
        ),
        ("command: [python3, scripts/serve_container.py]", "command: [ray, start, --head]", "made by hand"),
    ],
    "azureml/aks/autoscale.yaml": [
        ("  pollingInterval: 15\n", "  pollingInterval: 15\n  cooldownPeriod: 1800\n", "acts only on the way to zero"),
    ],
    "azureml/aks/batch/rayjob.yaml": [
        ("extraction-batch:1", "extraction-batch", "is not pinned"),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "bill after the job has ended"),
        (
            "replicas: 1\n        minReplicas: 1\n        maxReplicas: 1",
            "replicas: 2\n        minReplicas: 2\n        maxReplicas: 2",
            "it waits for 2 GPUs",
        ),
        ("maxReplicas: 1", "maxReplicas: 0", "replicas is not between"),
        ("--ray auto", "--rai auto", "has no --rai"),
        ("  tolerations:", "  toleration:", "toleration"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is not set"),
    ],
    "azureml/vm/compose.yaml": [
        ("size=8g,exec,", "size=8g,", "is noexec, Docker's default"),
        ("EXTRACTION_API_KEY_FILE: /run/secrets/api-key", "EXTRACTION_API_KEY: ${KEY}", "a secret in the environment"),
    ],
    "azureml/vm/extraction.service": [
        ("--model /srv", "--modell /srv", "has no --modell"),
    ],
    "runpod/train/start.sh": [
        ("--fail-under", "--fail-below", "has no --fail-below"),
        ('"$base" --train', "$base --train", "shellcheck"),
        ("trap finish EXIT\n", "", "no trap on EXIT"),
        ("runpodctl send", "runpodctl sent", "runpodctl send must come before the stop"),
        ("VOLUME:-/workspace/extraction}", "VOLUME:-/workspace}", "the runbook's clone is /workspace/extraction"),
        ('"$python" "$here/scripts/check_gpu.py"\n', "", "check_gpu.py must come before the training"),
    ],
    "runpod/serve/start.sh": [
        ("exec setpriv --reuid", "exec env --reuid", "it runs as root"),
    ],
    "runpod/serve/template.json": [
        ('    "PORT": "8080",\n', "", "the load balancer would ask port 80"),
        ('["8080/http"]', "[]", "port 8080 is not exposed"),
        ('"PORT_HEALTH": "8080"', '"PORT_HEALTH": "80"', "PORT_HEALTH is not 8080"),
        ("--max-bytes 30000000 ", "", "above the load balancer's own limit of 30000000"),
        ("--max-seconds 300", "--max-seconds 600", "above the load balancer's own limit of 330"),
    ],
    "runpod/serve/endpoint.json": [
        ('"workersMin": 1', '"workersMin": 0', "a request waits 2 minutes for a worker"),
        ('"idleTimeout": 60', '"idleTimeout": 5', "every pause would end in a cold start"),
        ('["13.0"]', '["12.8"]', "must start at 13.0"),
    ],
    ".runpod/Dockerfile": [
        ("COPY scripts scripts", "ADD scripts scripts", "hadolint"),
    ],
    ".runpod/hub.json": [
        ('"13.0"', '"12.4"', "must start at 13.0"),
        ('"key": "MODEL_DIR"', '"key": "MODEL_FOLDER"', "nothing reads MODEL_FOLDER"),
    ],
    ".runpod/tests.json": [
        ('"name": "one_page"', '"nam": "one_page"', "a test needs name and input"),
    ],
    "docs/AZUREML_TRAINING_RUNBOOK.md": [
        ("smoke.yml", "job.yml", "nothing checks the GPU before"),
        ("python scripts/download_model.py --model", "hf download --model", "hf is not on PATH"),
    ],
    "azureml/README.md": [
        (
            "--enable-cluster-autoscaler --min-count 1 --max-count 3",
            "--node-count 1",
            "the node pool has no autoscaler",
        ),
        ("--labels workload=extraction-gpu", "--labels kubernetes.azure.com/accelerator=nvidia", "is AKS's own"),
        ("--from-file=api-key", "--from-literal=api-key=$key", "a secret on a command line"),
        (" --network-policy cilium", "", "no network policy engine"),
        ("deployment/extraction --timeout=45m", "deployment/extraction --timeout=10m", "its start may take 31 min"),
        (
            "```shell\naz ml online-endpoint delete --name bl-extract --yes\n```",
            "```powershell\naz ml x\n```\n\n```bash\naz ml x\n```",
            "the same block twice",
        ),
    ],
    "runpod/TRAIN_SERVE_RUNBOOK.md": [
        (
            "cd /workspace\ngit clone REPOSITORY extraction",
            "cd /data\ngit clone REPOSITORY extraction",
            "clone is /data",
        ),
        ("python3 scripts/check_gpu.py\n", "", "nothing checks the GPU before"),
        ('--header "@runpod-key" https', '--header "Authorization: Bearer $KEY" https', "a secret on a command line"),
    ],
}
# Whole files that once stood there, or that are gone: what is taken away or put in, and what is said.
REMOVED: dict[str, str] = {
    ".runpod/handler.py": "the hub looks for handler.py",
    ".runpod/Dockerfile": "the hub looks for Dockerfile",
}
ADDED: dict[str, tuple[str, str]] = {
    "azureml/endpoint/deployment-green.yml": ("azureml/endpoint/deployment.yml", "one file serves both slots"),
}
