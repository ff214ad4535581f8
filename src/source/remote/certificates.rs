//! The certificates of the system, which take longer to read than a small model: they are read when the first server shows its own.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::source::remote::runtime::prepare_tls;

/// Returns the settings of encrypted connections.
pub(super) fn settings() -> ClientConfig {
    prepare_tls();
    let settings = ClientConfig::builder();
    let verifier = SystemVerifier { provider: Arc::clone(settings.crypto_provider()), system: OnceLock::new() };
    // "Dangerous" is a verifier of one's own; this one leaves every decision to the system's.
    let mut settings = settings.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    settings
}

/// The verifier of the system.
#[derive(Debug)]
struct SystemVerifier {
    provider: Arc<CryptoProvider>,
    system: OnceLock<Result<Verifier, Error>>,
}

impl SystemVerifier {
    fn system(&self) -> Result<&Verifier, Error> {
        self.system.get_or_init(|| Verifier::new(Arc::clone(&self.provider))).as_ref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for SystemVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.system()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.system()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.system()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
