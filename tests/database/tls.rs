//! TLS to a real server, with a certificate authority of its own and a password from a credential.

use std::fs;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::common::{Daemon, Endpoint, Home, Run as _, Settings, xml};
use super::server;

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A command that trusts this authority alone, and has the password as a credential.
fn trusting(mut command: Command, home: &Home, authority: &str) -> Command {
    fs::create_dir_all(home.beside("credentials")).unwrap();
    fs::write(home.beside("credentials/db"), "right\n").unwrap();
    command.env("CREDENTIALS_DIRECTORY", home.beside("credentials"));
    command
        .env("SSL_CERT_FILE", home.beside(authority))
        .env_remove("SSL_CERT_DIR");
    command
}

#[test]
fn tls_is_verified_by_the_authorities_of_the_machine() {
    let test = "tls_is_verified_by_the_authorities_of_the_machine";
    let Some(server) = server(test) else { return };
    let (right, wrong) = (authority("right"), authority("wrong"));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &right).unwrap();
    server.enable_tls(&certificate.pem(), &key.serialize_pem());
    server.sql("postgres", "CREATE ROLE locked LOGIN PASSWORD 'right'");
    let database = server.database();
    server.sql(
        "postgres",
        &format!("ALTER DATABASE {database} OWNER TO locked"),
    );
    server.sql(&database, "ALTER SCHEMA public OWNER TO locked");
    let connection = server
        .connection(&database)
        .replace("user=postgres", "user=locked");
    let endpoint = Endpoint::new();
    let home = Home::new(&Settings::all_to(&endpoint).repository("name: models").top(&format!(
        "store: {{ postgres: \"{connection}\", password: {{ credential: db }}, tls: require }}"
    )));
    fs::write(home.beside("right.pem"), right.pem()).unwrap();
    fs::write(home.beside("wrong.pem"), wrong.pem()).unwrap();

    // No authority at all: a wait would be in vain.
    let mut run = trusting(Daemon::command(&home), &home, "absent.pem");
    let ended = run.run().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("ca-certificates"), "{said}");

    // Another authority: the process waits, and never sends its password.
    let daemon = Daemon::launch(&home, trusting(Daemon::command(&home), &home, "wrong.pem"));
    let entry = daemon.wait_log("the reason", |entry| entry.message().starts_with("waiting"));
    assert!(
        entry.message().contains("UnknownIssuer"),
        "{}",
        entry.message()
    );
    assert!(daemon.terminate().success());
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(server.sql(&database, tables), "0");

    let daemon = Daemon::launch(&home, trusting(Daemon::command(&home), &home, "right.pem"));
    daemon.wait_ready();
    home.write("sales/one/project.xml", &xml("one", "id-1", "first"));
    endpoint.wait_for(2);
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE usename = 'locked'";
    assert_eq!(server.sql(&database, encrypted), "t");
    // A command verifies it as well.
    let mut status = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    status.arg("--config").arg(home.config()).arg("status");
    let told = trusting(status, &home, "right.pem").run().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("epoch 1; repository models"), "{told}");
    let mut events = Command::new(env!("CARGO_BIN_EXE_project-webhooks"));
    events.arg("--config").arg(home.config()).arg("events");
    let refused = trusting(events, &home, "wrong.pem").run().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(daemon.terminate().success());
}
