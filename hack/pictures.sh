#!/usr/bin/env bash
# Makes the pictures of the command line in docs/images/ from a real run: four shops on a test bed, of which one has a good release behind it,
# one a bad one, one is paused and one is under way.
# usage, on a bed that nothing else runs on:  make up; target/debug/serin-e2e exec -- hack/pictures.sh; make down
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT

serin controller -mesh-provider=gatewayapi:v1 -metrics-server=http://127.0.0.1:9090 -bind-address=127.0.0.1 -port=9400 2>"$work/controller.log" &
kubectl create namespace shop
shops=(account basket search web)
for shop in "${shops[@]}"; do
    sed "s/\bweb\b/$shop/g" examples/tutorial/app.yaml | kubectl -n shop apply -f -
    kubectl -n shop set env "deployment/$shop" DELAY_MS=12
    # Quicker than the tutorial's, with a second metric and smaller steps.
    sed "s/\bweb\b/$shop/g; s/stepWeight: 25/stepWeight: 20/; s/maxWeight: 50/maxWeight: 60/" examples/tutorial/canary.yaml >"$work/canary.yaml"
    printf '    - name: request-duration\n      interval: 10s\n      thresholdRange:\n        max: 500\n' >>"$work/canary.yaml"
    kubectl -n shop apply -f "$work/canary.yaml"
done
for shop in "${shops[@]}"; do
    serin wait "$shop" -n shop --for initialized --timeout 3m
    while sleep 0.07; do curl -s -o /dev/null -H "Host: $shop.shop.example" http://127.0.0.1:8000 || true; done &
done

release() { kubectl -n shop set image "deployment/$1" "app=serin-demo-app:$2"; }
# picture NAME COLUMNS COMMAND: what a person sees who types it.
picture() {
    printf '\033[2m$\033[0m \033[1m%s\033[0m\n' "$3" >"$work/screen"
    script -qec "stty cols 200; $3" /dev/null >>"$work/screen" || true
    hack/terminal-svg.py "$2" <"$work/screen" >"docs/images/$1.svg"
}

release search 1.1.0
kubectl -n shop set env deployment/basket ERROR_RATE=0.2
serin wait search -n shop --timeout 5m
serin wait basket -n shop --for failed --timeout 5m
release account 1.1.0
release web 1.1.0
# Far enough for a course of values.
until [ "$(kubectl -n shop get canary web -o jsonpath='{.status.canaryWeight}')" = 60 ]; do sleep 0.2; done
serin pause account -n shop -m lunch
picture get 120 "serin get -n shop"
picture get-name 120 "serin get web -n shop"
picture explain 120 "serin explain web -n shop"
picture explain-run 120 "serin explain basket -n shop --run 1"
cp tests/fixtures/lint/shop.yaml "$work/"
cd "$work"
script -qec "stty cols 200; serin lint shop.yaml" /dev/null >"$work/lint" || true
cd - >/dev/null
{ printf '\033[2m$\033[0m \033[1mserin lint shop.yaml\033[0m\n'; cat "$work/lint"; } | hack/terminal-svg.py 120 >docs/images/lint.svg
ls -l docs/images
