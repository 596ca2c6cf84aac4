//! Keys, certificates and kubeconfigs of one cluster, with an authority of its own.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use crate::address::{API_SERVER, KUBERNETES_SERVICE, NODE, NODE_6, NODE_NAME};

/// A certificate: name of its files, common name, organisation, further names.
struct Identity {
    file: &'static str,
    name: String,
    organisation: Option<&'static str>,
    names: Vec<String>,
}

/// Who has a kubeconfig. The organisation `system:masters` may do all.
fn identities() -> Vec<Identity> {
    let client = |file, name: &str, organisation| Identity {
        file,
        name: name.to_owned(),
        organisation,
        names: Vec::new(),
    };
    vec![
        client("admin", "admin", Some("system:masters")),
        // Its controllers act as themselves elsewhere, each with an account and a role; here one identity does for all.
        client(
            "kube-controller-manager",
            "system:kube-controller-manager",
            Some("system:masters"),
        ),
        client("kube-scheduler", "system:kube-scheduler", None),
        client("kube-proxy", "system:kube-proxy", None),
        // Roles of these two are in addons/accounts.yaml.
        client("load-balancer", "load-balancer", None),
        client("volumes", "volumes", None),
        Identity {
            file: "kubelet",
            name: format!("system:node:{NODE_NAME}"),
            organisation: Some("system:nodes"),
            names: vec![NODE_NAME.into(), NODE.into(), NODE_6.into()],
        },
        Identity {
            file: "kube-apiserver",
            name: "kube-apiserver".into(),
            organisation: None,
            names: [
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
                "127.0.0.1",
                KUBERNETES_SERVICE,
                NODE,
                NODE_6,
            ]
            .map(str::to_owned)
            .to_vec(),
        },
    ]
}

/// Writes all of them to `folder`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named("shardway-cluster", None);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)
        .context("make the certificate authority")?;
    fs::write(folder.join("ca.crt"), authority.pem())?;
    secret(&folder.join("ca.key"), &authority.key().serialize_pem())?;

    // Service account tokens: the API server reads public keys from a file of their own, since of a private key it takes
    // another form than the one written here.
    let accounts = KeyPair::generate()?;
    secret(
        &folder.join("service-account.key"),
        &accounts.serialize_pem(),
    )?;
    fs::write(
        folder.join("service-account.pub"),
        accounts.public_key_pem(),
    )?;

    for identity in identities() {
        let mut parameters = CertificateParams::new(identity.names)?;
        parameters.distinguished_name = named(&identity.name, identity.organisation);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = parameters
            .signed_by(&key, &authority)
            .with_context(|| format!("sign the certificate of {}", identity.name))?;
        let file = identity.file;
        fs::write(folder.join(format!("{file}.crt")), certificate.pem())?;
        secret(&folder.join(format!("{file}.key")), &key.serialize_pem())?;
        secret(
            &folder.join(format!("{file}.kubeconfig")),
            &kubeconfig(folder, file),
        )?;
    }
    Ok(())
}

/// A kubeconfig; JSON is YAML too.
fn kubeconfig(folder: &Path, user: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {
            "server": format!("https://{API_SERVER}"),
            "certificate-authority": folder.join("ca.crt"),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate": folder.join(format!("{user}.crt")),
            "client-key": folder.join(format!("{user}.key")),
        }}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": user}}],
        "current-context": "cluster",
    });
    format!("{config:#}\n")
}

fn named(name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    if let Some(organisation) = organisation {
        distinguished.push(DnType::OrganizationName, organisation);
    }
    distinguished
}

fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn keys_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        write(&pki).unwrap();
        for file in ["admin.key", "service-account.key", "volumes.kubeconfig"] {
            let mode = fs::metadata(pki.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let config = fs::read_to_string(pki.join("admin.kubeconfig")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(
            config["clusters"][0]["cluster"]["server"],
            "https://10.99.0.1:6443"
        );
    }
}
