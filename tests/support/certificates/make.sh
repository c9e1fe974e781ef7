#!/bin/sh
# Makes the tests' certificates anew, by openssl: an authority, and what it has signed, each with its key, which
# protects nothing. They are kept, so that no test needs openssl.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: > "$work/index"
cat > "$work/ca.conf" <<END
[ca]
default_ca = own
[own]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
END

# sign NAME UNTIL EXTENSIONS [OPTIONS OF openssl ca]
sign() {
  name=$1 until=$2
  printf "$3" > "$work/extensions"
  shift 3
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
    -keyout "$work/$name.key" -out "$work/$name.csr" 2>/dev/null
  openssl ca -batch -notext -config "$work/ca.conf" -extfile "$work/extensions" \
    -startdate 20200101000000Z -enddate "$until" \
    -in "$work/$name.csr" -out "$work/$name.pem" "$@" 2>/dev/null
  cat "$work/$name.key" "$work/$name.pem" > "$name.pem"
}

sign authority 21200101000000Z "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n" \
  -selfsign -keyfile "$work/authority.key"
by="-cert $work/authority.pem -keyfile $work/authority.key"
here="subjectAltName=DNS:localhost,IP:127.0.0.1\n"
sign server 21200101000000Z "$here" $by
sign expired 20210101000000Z "$here" $by
sign elsewhere 21200101000000Z "subjectAltName=DNS:elsewhere.example\n" $by
# for a client, and a role of that name
sign client 21200101000000Z "extendedKeyUsage=clientAuth\n" $by
