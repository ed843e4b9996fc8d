#!/usr/bin/env bash
# Send a share of the traffic to one colour and the rest to the other; 100 makes it the only one, 0 is the rollback. "mirror" sends it a copy
# of 10 % of the requests, whose answers nobody gets.
#
#   RESOURCE_GROUP=rg WORKSPACE=ws bash azureml/endpoint/traffic.sh green mirror
#   RESOURCE_GROUP=rg WORKSPACE=ws bash azureml/endpoint/traffic.sh green 10
#   RESOURCE_GROUP=rg WORKSPACE=ws bash azureml/endpoint/traffic.sh green 0
set -euo pipefail

colour=${1:?colour: blue or green}
share=${2:?a share from 0 to 100, or mirror}
: "${RESOURCE_GROUP:?set RESOURCE_GROUP}" "${WORKSPACE:?set WORKSPACE}"
endpoint=${ENDPOINT:-bl-extract}
at=(--resource-group "$RESOURCE_GROUP" --workspace-name "$WORKSPACE")
case $colour in
  blue) other=green ;;
  green) other=blue ;;
  *) echo "error: the colour is blue or green, not $colour" >&2; exit 2 ;;
esac

if [ "$share" = mirror ]; then
  az ml online-endpoint update --name "$endpoint" "${at[@]}" --mirror-traffic "$colour=10" --output none
  echo "a copy of 10 % of the requests goes to $colour"
  exit 0
fi
[[ $share =~ ^[0-9]+$ ]] && [ "$share" -le 100 ] || { echo "error: the share is 0 to 100, not $share" >&2; exit 2; }
# Mirroring and a share of the same deployment exclude each other.
az ml online-endpoint update --name "$endpoint" "${at[@]}" --mirror-traffic "$colour=0" --output none
if [ "$share" = 100 ]; then
  traffic="$colour=100"
else
  traffic="$colour=$share $other=$((100 - share))"
fi
az ml online-endpoint update --name "$endpoint" "${at[@]}" --traffic "$traffic" --output none
echo "traffic: $traffic"
