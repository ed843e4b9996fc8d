#!/usr/bin/env bash
# Deploy one colour of the endpoint and test it with a document, before any traffic goes there. Stops at the first failure; run again, it
# updates what is there. A deployment that fails its test is taken away again, unless KEEP_FAILED=1.
#
#   RESOURCE_GROUP=rg WORKSPACE=ws bash azureml/endpoint/deploy.sh blue document.pdf
set -euo pipefail

colour=${1:?colour: blue or green}
document=${2:?a PDF to test with}
: "${RESOURCE_GROUP:?set RESOURCE_GROUP}" "${WORKSPACE:?set WORKSPACE}"
endpoint=${ENDPOINT:-bl-extract}
here=$(cd "$(dirname "$0")" && pwd)
at=(--resource-group "$RESOURCE_GROUP" --workspace-name "$WORKSPACE")
test -f "$document" || { echo "error: no such file: $document" >&2; exit 2; }
test -f "$here/deployment-$colour.yml" || { echo "error: the colour is blue or green, not $colour" >&2; exit 2; }

if ! az ml environment show --name extraction-server --version 1 "${at[@]}" --output none 2>/dev/null; then
  az ml environment create --file "$here/environment.yml" "${at[@]}" --output none
fi
if ! az ml online-endpoint show --name "$endpoint" "${at[@]}" --output none 2>/dev/null; then
  az ml online-endpoint create --name "$endpoint" --file "$here/endpoint.yml" "${at[@]}" --output none
fi

made=0
if az ml online-deployment show --name "$colour" --endpoint-name "$endpoint" "${at[@]}" --output none 2>/dev/null; then
  az ml online-deployment update --name "$colour" --endpoint-name "$endpoint" --file "$here/deployment-$colour.yml" "${at[@]}" --output none
else
  made=1
  if ! az ml online-deployment create --name "$colour" --endpoint-name "$endpoint" --file "$here/deployment-$colour.yml" "${at[@]}" --output none; then
    az ml online-deployment get-logs --name "$colour" --endpoint-name "$endpoint" "${at[@]}" --lines 100 >&2 || true
    if [ "${KEEP_FAILED:-0}" != 1 ]; then
      az ml online-deployment delete --name "$colour" --endpoint-name "$endpoint" "${at[@]}" --yes
    fi
    echo "error: $colour was not made; its log stands above" >&2
    exit 1
  fi
fi

uri=$(az ml online-endpoint show --name "$endpoint" "${at[@]}" --query scoring_uri --output tsv)
key=$(az ml online-endpoint get-credentials --name "$endpoint" "${at[@]}" --query primaryKey --output tsv)
# The header chooses the deployment, whatever the traffic says. The key goes in by a file descriptor: an argument could be read by others.
status=$(curl --silent --show-error --output /dev/null --write-out '%{http_code}' --max-time 180 \
  --header @<(printf 'Authorization: Bearer %s\n' "$key") --header "azureml-model-deployment: $colour" \
  --header "Content-Type: application/pdf" --data-binary "@$document" "$uri")
if [ "$status" != 200 ]; then
  if [ "$made" = 1 ] && [ "${KEEP_FAILED:-0}" != 1 ]; then
    az ml online-deployment delete --name "$colour" --endpoint-name "$endpoint" "${at[@]}" --yes
  fi
  echo "error: $colour answers $status to $document" >&2
  exit 1
fi
echo "$colour answers; no traffic goes there yet. Next: bash azureml/endpoint/traffic.sh $colour 10"
