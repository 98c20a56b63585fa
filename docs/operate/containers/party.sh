#!/bin/sh
# What a container runs: `run-server` or `run-site` for a folder in /srv that was made by the runbook's commands; or a
# party of the trial, which first makes it: `try-consortium`, `try-server`, `try-site NAME`.
#
# In the trial the parties exchange files by $STICK, as people would by a stick, and nobody compares a fingerprint by
# telephone: every machine is yours. For anything else make the folders by the runbook.
set -eu
STICK=${STICK:-/stick}
RECORDS=${RECORDS:-/records}
SITES=${SITES:-north east south}
SERVER_HOST=${SERVER_HOST:-server}
BASE=${BASE:-smollm2-135m-instruct}

# Files come whole or not at all.
give() {
    cp -r "$1" "$STICK/.$2.part"
    chmod -R a+rX "$STICK/.$2.part"
    mv "$STICK/.$2.part" "$STICK/$2"
}

wait_for() {
    until [ -e "$STICK/$1" ]; do sleep 1; done
}

try_consortium() {
    secret="--passphrase-file /srv/passphrase"
    if [ ! -e /srv/ca/roster ]; then
        rm -rf /srv/ca
        (umask 077 && head -c 24 /dev/urandom | base64 > /srv/passphrase)
        yoriai federation init /srv/ca --name trial $secret
        for name in office $SITES; do
            wait_for "$name.request"
            yoriai federation sign "$STICK/$name.request" --folder /srv/ca $secret --yes
        done
        yoriai federation roster --folder /srv/ca $secret
    fi
    mkdir -p /srv/signed
    for file in members coordinator.cert authority.der roster revocations.der; do
        cp -r "/srv/ca/$file" /srv/signed/
    done
    [ -e "$STICK/signed" ] || give /srv/signed signed
}

try_server() {
    if [ ! -e /srv/server/trust/roster ]; then
        [ -e /srv/server/server.toml ] || yoriai server init /srv/server --name office --host "$SERVER_HOST" --yes
        yoriai server enrol /srv/server
        give /srv/server/office.request office.request
        wait_for signed
        yoriai server enrol /srv/server --coordinator "$STICK/signed/coordinator.cert" \
            --authority "$STICK/signed/authority.der" --roster "$STICK/signed/roster" \
            --revocations "$STICK/signed/revocations.der" --member "$STICK/signed/members/" --yes
        give /srv/server/tls/ca.crt ca.crt
    fi
    run_server
}

try_site() {
    if [ ! -e /srv/site/node/server-ca.crt ]; then
        if [ ! -e /srv/site/site.toml ]; then
            cp -r "$RECORDS/$1" /srv/records
            chown -R yoriai-site: /srv/records && chmod 700 /srv/records
            yoriai site init /srv/site --name "$1" --data /srv/records --base "$BASE" \
                --witness "/srv/witness/$1" --server "$SERVER_HOST:9092" --yes
        fi
        runuser -u yoriai-site -- yoriai site fetch /srv/site
        yoriai site enrol /srv/site
        give "/srv/site/$1.request" "$1.request"
        wait_for signed
        yoriai site enrol /srv/site --certificate "$STICK/signed/members/$1.cert" \
            --authority "$STICK/signed/authority.der" --roster "$STICK/signed/roster" \
            --revocations "$STICK/signed/revocations.der" --yes
        wait_for ca.crt
        yoriai site enrol /srv/site --server-ca "$STICK/ca.crt" --yes
    fi
    run_site
}

run_server() {
    install -m 644 /srv/server/nginx/yoriai.conf /etc/nginx/conf.d/
    nginx -t && nginx
    exec runuser -u yoriai-server -- yoriai server start /srv/server --log-json
}

run_site() {
    exec yoriai site start /srv/site --node-user yoriai-node --log-json
}

case "$1" in
    run-server) run_server ;;
    run-site) run_site ;;
    try-consortium) try_consortium ;;
    try-server) try_server ;;
    try-site) try_site "$2" ;;
    *) echo "unknown: $1" >&2; exit 2 ;;
esac
