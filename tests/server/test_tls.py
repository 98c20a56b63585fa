"""The server's certificates, as the libraries of its clients judge them: OpenSSL over real handshakes, and another."""

import ssl
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.server.handshakes import handshake
from tests.system import needed
from yoriai.errors import ConfigError, IdentityError
from yoriai.server.folder.tls import CA_VALID_FOR, CERTIFICATE_VALID_FOR, KeyPair, check_brought, issue, make_authority

NOW = datetime.now(UTC).replace(microsecond=0)
AUTHORITY = make_authority("office", now=NOW)
HOSTS = ("server.example.org", "10.1.2.3", "2001:db8::7")


def certificate(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def accepts(pair: KeyPair, host: str, tmp_path: Path, authority: bytes = AUTHORITY.certificate) -> bool:
    """Whether a client that trusts the CA, as strictly as OpenSSL can be, takes the certificate for this host."""
    context = ssl.create_default_context(cadata=authority.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return handshake(pair, context, host, tmp_path)


@pytest.mark.parametrize("host", [*HOSTS, "localhost", "127.0.0.1"])
def test_a_certificate_holds_for_each_of_its_hosts_and_for_this_machine(host: str, tmp_path: Path) -> None:
    assert accepts(issue(AUTHORITY, HOSTS, now=NOW), host, tmp_path)


@pytest.mark.parametrize("host", ["other.example.org", "x.server.example.org", "10.1.2.4", "2001:db8::8"])
def test_a_certificate_holds_for_no_other_host(host: str, tmp_path: Path) -> None:
    assert not accepts(issue(AUTHORITY, HOSTS, now=NOW), host, tmp_path)


def test_a_certificate_of_another_ca_of_the_same_name_is_not_accepted(tmp_path: Path) -> None:
    other = make_authority("office", now=NOW)
    assert not accepts(issue(other, HOSTS, now=NOW), HOSTS[0], tmp_path)


def test_a_certificate_is_for_servers_and_signs_nothing() -> None:
    extensions = certificate(issue(AUTHORITY, HOSTS, now=NOW)).extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert usage.critical
    assert constraints.critical
    assert not usage.value.key_cert_sign
    assert not constraints.value.ca


def test_the_ca_signs_end_certificates_only() -> None:
    extensions = certificate(AUTHORITY).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)


def test_a_renewed_certificate_has_another_key_and_the_same_ca(tmp_path: Path) -> None:
    first, second = issue(AUTHORITY, HOSTS, now=NOW), issue(AUTHORITY, HOSTS, now=NOW)
    assert certificate(first).public_key() != certificate(second).public_key()
    assert accepts(second, HOSTS[0], tmp_path)


def test_a_certificate_lasts_825_days_or_until_the_ca_ends() -> None:
    assert issue(AUTHORITY, HOSTS, now=NOW).expires == NOW + CERTIFICATE_VALID_FOR
    late = NOW + CA_VALID_FOR - timedelta(days=10)
    assert issue(AUTHORITY, HOSTS, now=late).expires == NOW + CA_VALID_FOR


def test_an_expired_ca_renews_nothing_and_says_what_to_do() -> None:
    with pytest.raises(IdentityError, match=r"expired.*move the server's folder tls/ away"):
        issue(AUTHORITY, HOSTS, now=NOW + CA_VALID_FOR)


def test_a_ca_with_another_key_renews_nothing() -> None:
    other = make_authority("office", now=NOW)
    with pytest.raises(IdentityError, match="do not belong together"):
        issue(KeyPair(AUTHORITY.certificate, other.key), HOSTS, now=NOW)


def test_a_pair_does_not_show_its_key() -> None:
    assert "PRIVATE" not in repr(AUTHORITY)


# What the plant brings.


def brought(hosts: Sequence[str] = HOSTS) -> KeyPair:
    return issue(AUTHORITY, hosts, now=NOW)


def test_a_brought_certificate_that_sites_would_accept_is_taken() -> None:
    check_brought(brought(), AUTHORITY.certificate, HOSTS, now=NOW)


def test_a_brought_certificate_behind_an_intermediate_ca_is_taken(tmp_path: Path) -> None:
    chain, root = chained(tmp_path, "server.example.org")
    check_brought(chain, root, ["server.example.org"], now=datetime.now(UTC))
    alone = KeyPair(
        chain.certificate.partition(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n", chain.key
    )
    with pytest.raises(IdentityError, match="between it and the CA"):
        check_brought(alone, root, ["server.example.org"], now=datetime.now(UTC))


@pytest.mark.parametrize("host", ["other.example.org", "10.1.2.4"])
def test_a_brought_certificate_for_another_host_is_refused(host: str) -> None:
    with pytest.raises(IdentityError, match=f"would refuse the certificate for {host}"):
        check_brought(brought(), AUTHORITY.certificate, [*HOSTS, host], now=NOW)


def test_a_brought_certificate_that_has_expired_or_is_another_cas_is_refused() -> None:
    with pytest.raises(IdentityError, match="would refuse"):
        check_brought(brought(), AUTHORITY.certificate, HOSTS, now=NOW + CERTIFICATE_VALID_FOR + timedelta(days=1))
    with pytest.raises(IdentityError, match="would refuse"):
        check_brought(brought(), make_authority("plant", now=NOW).certificate, HOSTS, now=NOW)


def test_a_brought_key_that_is_anothers_or_locked_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="do not belong together"):
        check_brought(KeyPair(brought().certificate, brought().key), AUTHORITY.certificate, HOSTS, now=NOW)
    locked = openssl("ec", "-aes256", "-passout", "pass:secret", text=brought().key, folder=tmp_path)
    for key in (locked, b"nothing"):
        with pytest.raises(ConfigError, match="without a passphrase"):
            check_brought(KeyPair(brought().certificate, key), AUTHORITY.certificate, HOSTS, now=NOW)


def test_a_brought_file_that_is_not_pem_is_named() -> None:
    with pytest.raises(ConfigError, match="the CA's certificate cannot be read"):
        check_brought(brought(), b"\x30\x82", HOSTS, now=NOW)


def openssl(*arguments: str, folder: Path, text: bytes = b"") -> bytes:
    command = [needed("openssl", "openssl"), *arguments]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, check=True).stdout


def chained(folder: Path, host: str) -> tuple[KeyPair, bytes]:
    """A certificate behind an intermediate CA, as openssl makes it, and the root that sites would pin."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n"
    leaf = f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n"
    names = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    openssl("req", "-x509", *curve, "-keyout", "root.key", "-out", "root.crt", "-subj", "/CN=root",
        "-addext", "keyUsage=critical,keyCertSign", folder=folder)  # fmt: skip
    for name, issuer, extensions in (("middle", "root", ca), ("leaf", "middle", leaf)):
        (folder / f"{name}.ext").write_text(extensions + names)
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}",
            folder=folder)  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-extfile", f"{name}.ext", folder=folder)  # fmt: skip
    read = {name: (folder / name).read_bytes() for name in ("leaf.crt", "middle.crt", "leaf.key", "root.crt")}
    return KeyPair(read["leaf.crt"] + read["middle.crt"], read["leaf.key"]), read["root.crt"]
