//! What is read from files that OpenSSL wrote, and what is said about those that cannot be used.

use super::*;

const EC_CERT: &[u8] = include_bytes!("testdata/ec-cert.pem");
const EC_KEY: &[u8] = include_bytes!("testdata/ec-sec1.pem");
const RSA_CERT: &[u8] = include_bytes!("testdata/rsa-cert.pem");
const RSA_KEY: &[u8] = include_bytes!("testdata/rsa-pkcs1.pem");
const STAPLE: &[u8] = include_bytes!("testdata/staple.der");
const STAPLED: &[u8] = include_bytes!("testdata/staple-cert.pem");
/// 2026-12-01 and 2130-01-01.
const NOW: i64 = 1_796_083_200;
const LATE: i64 = 5_049_129_600;

#[track_caller]
fn problem(cert: &[u8], key: &[u8]) -> (Part, &'static str, String) {
    let problem = Identity::parse(cert, key).expect_err("a problem");
    (problem.part, problem.code.id, format!("{}: {}", problem.what, problem.hint))
}

#[track_caller]
fn refused(cert: &[u8], key: &[u8], part: Part, code: &str, words: &str) {
    let (found_part, found_code, text) = problem(cert, key);
    assert_eq!((found_part, found_code), (part, code), "{text}");
    assert!(text.contains(words), "{text}");
}

#[test]
fn certificates_and_keys_of_all_forms_are_read() {
    let ec = Identity::parse(EC_CERT, EC_KEY).expect("SEC1 behind its parameters");
    assert!(matches!(ec.key, PrivateKeyDer::Sec1(_)));
    assert_eq!(ec.leaf.names, ["ec.test", "*.ec.test"]);
    let rsa = Identity::parse(RSA_CERT, RSA_KEY).expect("PKCS#1");
    assert!(matches!(rsa.key, PrivateKeyDer::Pkcs1(_)));
    let fresh = rcgen::KeyPair::generate().expect("a key");
    let cert = rcgen::CertificateParams::new(vec!["new.test".to_owned()]).expect("names");
    let cert = cert.self_signed(&fresh).expect("a certificate");
    let new = Identity::parse(cert.pem().as_bytes(), fresh.serialize_pem().as_bytes()).expect("PKCS#8");
    assert!(matches!(new.key, PrivateKeyDer::Pkcs8(_)));
    // A chain keeps its order, and one file may hold certificate and key.
    let both = [EC_KEY, EC_CERT, RSA_CERT].concat();
    let chain = Identity::parse(&both, &both).expect("a chain");
    assert_eq!(chain.certified.cert.len(), 2);
    assert_eq!(chain.certified.cert[0], ec.certified.cert[0]);
}

#[test]
fn keys_of_other_certificates_are_refused() {
    refused(RSA_CERT, EC_KEY, Part::Key, "E053", "is the key of another certificate: take `cert` and `key`");
    let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    refused(EC_CERT, other.as_bytes(), Part::Key, "E053", "is the key of another certificate");
    let wrong_order = [RSA_CERT, EC_CERT].concat();
    refused(&wrong_order, EC_KEY, Part::Certificate, "E053", "which is number 2");
}

#[test]
fn files_of_the_wrong_kind_are_named() {
    refused(EC_KEY, EC_KEY, Part::Certificate, "E051", "holds a private key and no certificate");
    refused(EC_CERT, EC_CERT, Part::Key, "E052", "holds a certificate and no private key");
    refused(b"", EC_KEY, Part::Certificate, "E051", "holds no certificate");
    refused(EC_CERT, b"hello", Part::Key, "E052", "holds no private key");
    refused(&[0x30, 0x82, 1, 2], EC_KEY, Part::Certificate, "E051", "openssl x509 -inform der");
    refused(EC_CERT, &[0x30, 0x82, 1, 2], Part::Key, "E052", "openssl pkey -inform der");
    for encrypted in
        [&include_bytes!("testdata/ec-encrypted-pkcs8.pem")[..], include_bytes!("testdata/ec-encrypted-sec1.pem")]
    {
        refused(EC_CERT, encrypted, Part::Key, "E052", "is an encrypted key: nobody is there to type the password");
    }
}

#[test]
fn damaged_files_are_refused() {
    refused(&EC_CERT[..EC_CERT.len() - 30], EC_KEY, Part::Certificate, "E051", "is damaged");
    let text = String::from_utf8_lossy(EC_CERT).replacen("MII", "!!!", 1);
    refused(text.as_bytes(), EC_KEY, Part::Certificate, "E051", "is damaged");
    let text = String::from_utf8_lossy(EC_CERT).replacen("MII", "MAI", 1);
    refused(text.as_bytes(), EC_KEY, Part::Certificate, "E051", "cannot be read (number 1");
    let second = [EC_CERT, text.as_bytes()].concat();
    refused(&second, EC_KEY, Part::Certificate, "E051", "cannot be read (number 2");
    let text = String::from_utf8_lossy(RSA_KEY).replacen("MII", "MAI", 1);
    refused(RSA_CERT, text.as_bytes(), Part::Key, "E052", "is not supported");
}

#[test]
fn authorities_that_cannot_be_read_are_left_out() {
    let broken = String::from_utf8_lossy(EC_CERT).replacen("MII", "MAI", 1);
    let some = authorities(&[broken.as_bytes(), RSA_CERT].concat()).expect("one is left");
    assert_eq!(some.len(), 1);
    let none = authorities(broken.as_bytes()).expect_err("none is left");
    assert_eq!((none.part, none.code.id), (Part::Authority, "E051"));
    assert_eq!(authorities(EC_KEY).expect_err("a key").part, Part::Authority);
}

#[test]
fn reading_ends_whatever_the_path_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let what = |path: &str| read(Part::Key, path).expect_err("not a file").what;
    assert_eq!(what(&path("none")), "does not exist");
    assert_eq!(what(&path("")), "is a folder");
    assert_eq!(what(""), "is empty");
    assert_eq!(what("/dev/zero"), "is not a regular file");
    let fifo = path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    assert_eq!(what(&fifo), "is not a regular file");
    std::fs::File::create(path("large")).and_then(|file| file.set_len(5 << 20)).expect("a file");
    assert_eq!(what(&path("large")), "is larger than 4 MiB");
}

#[test]
fn validity_is_told_in_words() {
    let leaf = Identity::parse(EC_CERT, EC_KEY).expect("it is good").leaf;
    assert_eq!(leaf.invalid_at(leaf.not_after), None);
    assert_eq!(leaf.invalid_at(leaf.not_before), None);
    let text = |now| leaf.invalid_at(now).expect("not valid");
    assert!(text(LATE).starts_with("expired on 2126-"), "{}", text(LATE));
    assert!(text(0).starts_with("is not valid before 2026-"), "{}", text(0));
}

#[test]
fn a_staple_is_for_its_certificate_and_for_its_time() {
    let staple = Staple::parse(STAPLE).expect("OpenSSL wrote it");
    assert_eq!(staple.der, STAPLE);
    let certificates = certificates(Part::Certificate, STAPLED).expect("a certificate");
    let leaf = Leaf::parse(&certificates[0]).expect("a certificate");
    assert_eq!(staple.fits(&leaf, NOW), Ok(()));
    assert_eq!(staple.fits(&leaf, LATE), Err(StapleFault::TooOld));
    let other = Identity::parse(EC_CERT, EC_KEY).expect("it is good").leaf;
    assert_eq!(staple.fits(&other, NOW), Err(StapleFault::Foreign));
}

#[test]
fn what_is_not_a_staple_is_refused_at_any_length() {
    for length in 0..STAPLE.len() {
        assert_eq!(Staple::parse(&STAPLE[..length]).expect_err("cut off").code.id, "E054");
    }
    // "Try later" has no answer in it.
    assert!(Staple::parse(&[0x30, 3, 0x0a, 1, 3]).is_err());
    assert!(Staple::parse(EC_CERT).is_err());
}

#[test]
fn a_subject_is_safe_in_a_header_field() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "al\r\nX: ü%");
    let certificate = params.self_signed(&key).expect("a certificate");
    let text = subject(certificate.der()).expect("a subject");
    assert!(text.contains("CN=al%0D%0AX: %C3%BC%25"), "{text}");
    assert_eq!(subject(&CertificateDer::from(vec![1, 2, 3])), None);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(cert: Vec<u8>, key: Vec<u8>, at in 0..STAPLE.len(), byte: u8) {
        let _ = Identity::parse(&cert, &key);
        let _ = authorities(&cert);
        let _ = Leaf::parse(&CertificateDer::from(cert.as_slice()));
        let mut staple = STAPLE.to_vec();
        staple[at] = byte;
        let _ = Staple::parse(&staple);
        let mut der = CertificateDer::from_pem_slice(EC_CERT).expect("a certificate").to_vec();
        let at = at % der.len();
        der[at] = byte;
        let _ = Leaf::parse(&CertificateDer::from(der.as_slice()));
        let _ = subject(&CertificateDer::from(der));
    }
}
