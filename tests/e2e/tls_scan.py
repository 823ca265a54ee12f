"""sslyze against a TLS listener: nothing below TLS 1.2, nothing weak, no known hole."""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sslyze import Scanner, ScanCommand, ScanCommandAttemptStatusEnum, ServerNetworkLocation, ServerScanRequest

from checks import check, expect, expect_equal
from fleet import Front

OLD = ("ssl_2_0_cipher_suites", "ssl_3_0_cipher_suites", "tls_1_0_cipher_suites", "tls_1_1_cipher_suites")
HOLES = {
    "heartbleed": lambda result: result.is_vulnerable_to_heartbleed,
    "openssl_ccs_injection": lambda result: result.is_vulnerable_to_ccs_injection,
    "robot": lambda result: "VULNERABLE" in result.robot_result.name and "NOT" not in result.robot_result.name,
    "tls_compression": lambda result: result.supports_compression,
    "session_renegotiation": lambda result: result.is_vulnerable_to_client_renegotiation_dos,
}


def certificate(folder):
    """A certificate that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
            .sign(key, hashes.SHA256()))
    paths = os.path.join(folder, "a.pem"), os.path.join(folder, "a.key")
    with open(paths[0], "wb") as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))
    with open(paths[1], "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                     serialization.NoEncryption()))
    return paths


def scan(front):
    commands = {ScanCommand(name) for name in (*OLD, "tls_1_2_cipher_suites", "tls_1_3_cipher_suites", *HOLES)}
    location = ServerNetworkLocation(hostname="a.test", ip_address="127.0.0.1", port=front.port)
    scanner = Scanner()
    scanner.queue_scans([ServerScanRequest(server_location=location, scan_commands=commands)])
    result, = scanner.get_results()
    expect(result.scan_result, f"the scanner could not connect: {result.connectivity_error_trace}")

    def part(name):
        attempt = getattr(result.scan_result, name)
        expect_equal(attempt.status, ScanCommandAttemptStatusEnum.COMPLETED, f"the scan for {name}")
        return attempt.result

    return part


@check("sslyze: a TLS listener speaks nothing below TLS 1.2 and has no known hole")
def nothing_old(world):
    for minimum in ("1.2", "1.3"):
        folder = os.path.join(world.directory, f"certificate-{minimum}")
        os.makedirs(folder)
        cert, key = certificate(folder)
        tls = f', tls: {{ min_version: "{minimum}", certificates: [{{ cert: "{cert}", key: "{key}" }}] }}'
        text = "routes: [{ name: all, match: { path: / }, respond: { status: 200, body: ok } }]\n"
        front = Front(world.binary, f"tls-{minimum}", world.directory, text, tls, "https")
        world.processes.append(front.process)
        try:
            part = scan(front)
            for name in OLD:
                expect_equal([suite.cipher_suite.name for suite in part(name).accepted_cipher_suites], [], name)
            new = {suite.cipher_suite.name for suite in part("tls_1_3_cipher_suites").accepted_cipher_suites}
            expect(new >= {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}, f"TLS 1.3: {new}")
            middle = {suite.cipher_suite.name for suite in part("tls_1_2_cipher_suites").accepted_cipher_suites}
            weak = [name for name in middle if not name.startswith("TLS_ECDHE_") or not ("GCM" in name or "CHACHA20" in name)]
            expect_equal(weak, [], "weak suites of TLS 1.2")
            expect_equal(bool(middle), minimum == "1.2", "whether TLS 1.2 is spoken")
            if minimum == "1.2":
                found = [name for name, is_there in HOLES.items() if is_there(part(name))]
                expect_equal(found, [], "known holes")
        finally:
            front.process.stop()
