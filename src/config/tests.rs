use serde::{
    Deserializer,
    de::{DeserializeOwned, Error, Visitor, value},
    forward_to_deserialize_any,
};

use super::*;

mod endpoints;

/// Every problem begins as expected, and there is no other.
fn assert_begin(found: &[String], expected: &[&str]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, begin) in found.iter().zip(expected) {
        assert!(found.starts_with(begin), "{found}\n{begin}");
    }
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match parse("test.toml", text, environment) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn nothing_is_a_whole_configuration() {
    assert_eq!(problems("", &[]), Vec::<String>::new());
}

#[test]
fn all_problems_come_at_once_each_with_file_line_and_key() {
    let text = r#"
[logging]
levle = "info"
format = "xml"

[loging]
level = "info"
"#;
    assert_eq!(
        problems(text, &[]),
        [
            "test.toml:3: logging.levle: unknown key `levle`; did you mean `level`?",
            "test.toml:4: logging.format: unknown value `xml`; known here: text, json",
            "test.toml:6: loging: unknown section `loging`; did you mean `logging`?",
        ]
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = [("POSTHASTE_LOGGING__FORMAT".to_owned(), "json".to_owned()), ("POSTHASTE_TOKEN".to_owned(), "x".to_owned())];
    let loaded = parse("test.toml", "[logging]\nformat = \"text\"\nlevel = \"debug\"", environment).expect("is whole");
    assert_eq!(loaded.config.logging.format, logging::Format::Json);
    assert_eq!(loaded.config.logging.level, "debug");
}

#[test]
fn a_problem_of_the_environment_names_its_variable() {
    assert_eq!(
        problems("", &[("POSTHASTE_LOGGING__LEVEL", "loud"), ("POSTHASTE_LOGGING_FORMAT", "json"), ("POSTHASTE_LOGGING__COLOUR", "red")]),
        [
            "POSTHASTE_LOGGING_FORMAT: section and key are joined by two underscores; did you mean POSTHASTE_LOGGING__FORMAT?",
            "POSTHASTE_LOGGING__COLOUR: logging.colour: unknown key `colour`; known here: level, format",
            "POSTHASTE_LOGGING__LEVEL: logging.level: `loud` is no level: write one of off, error, warn, info, debug, trace, or module=level, \
             separated by commas",
        ]
    );
}

#[test]
fn text_that_is_no_toml_is_reported_with_its_line_beside_the_rest() {
    let found = problems("[logging]\nlevel = \nformat = \"xml\"\n", &[]);
    assert!(found[0].starts_with("test.toml:2: this is no TOML"), "{found:?}");
    assert_eq!(found[1], "test.toml:3: logging.format: unknown value `xml`; known here: text, json");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let problems = load(Some(Path::new("/nowhere/posthaste.toml")), []).expect_err("it is not there");
    assert!(problems.to_string().starts_with("/nowhere/posthaste.toml: cannot be read"), "{problems}");
}

/// `default.toml` is the manual: what it says are the defaults, word for word.
#[test]
fn the_manual_tells_the_defaults_of_the_code() {
    let manual = parse("default.toml", MANUAL, []).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(format!("{:#?}", manual.config), format!("{:#?}", Config::default()));
}

#[test]
fn the_manual_names_every_key() {
    for (section, keys) in KEYS {
        let header = format!("[{section}]");
        let begin =
            MANUAL.lines().position(|line| line.trim_start_matches('#') == header || line.trim_start_matches('#') == format!("[{header}]"));
        let begin = begin.unwrap_or_else(|| panic!("{header} is not in the manual"));
        let named: Vec<&str> = MANUAL
            .lines()
            .skip(begin + 1)
            .take_while(|line| !is_header(line) || line.contains(&format!("[{section}.")))
            .filter_map(|line| line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key))
            .collect();
        for key in keys() {
            let is_table = MANUAL.contains(&format!("[{section}.{key}]"));
            assert!(is_table || named.contains(key), "{section}.{key} is not in the manual; it names {named:?}");
        }
    }
}

fn is_header(line: &str) -> bool {
    let line = line.trim_start_matches('#');
    line.starts_with('[') && line.ends_with(']')
}

/// The keys that a section's struct asks its deserializer for.
pub(super) fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Spy<'k>(&'k mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Spy<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(value::Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, value::Error> {
            *self.0 = fields;
            Err(value::Error::custom("seen enough"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
            tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    assert!(T::deserialize(Spy(&mut fields)).is_err() && !fields.is_empty());
    fields
}

#[test]
fn endpoints_and_tenants_are_checked_one_by_one() {
    let text = r#"
[[endpoint]]
id = "a"
url = "ftp://example.com/"
types = ["*x"]
formt = "hub"
signing = "none"

[[endpoint]]
id = "b"
url = "https://example.com/"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

[[endpoint]]
id = "b"
url = "https://example.com/"
signing = "none"

[[endpoint]]
url = "https://example.com/"
signing = "none"

[[tenant]]
id = "t"
weight = 0
"#;
    let found = problems(text, &[]);
    let begins = [
        "test.toml:4: endpoint(a).url: ",
        "test.toml:5: endpoint(a).types",
        "test.toml:6: endpoint(a).formt: unknown key `formt`; did you mean `format`?",
        "test.toml:15: endpoint(b).id: this id is there twice",
        "test.toml:19: endpoint[3].id: is required",
        "test.toml:25: tenant(t).weight: is 0",
    ];
    assert_begin(&found, &begins);
}

#[test]
fn no_problem_of_an_endpoint_or_a_tenant_hides_another() {
    let text = r#"
[delivery]
connect_timeout = 5

[[endpoint]]
id = "a"
url = "http://10.0.0.1/"
format = "xml"
signing = "none"
filter = "1 +"
[endpoint.auth]
type = "oauth2"
url = "http://10.0.0.1/token"
clientId = "us"
clientSecret = 7

[[endpoint]]
id = "a"
url = "http://127.0.0.1/"
concurency = 3
signing = "none"

[[endpoint]]
id = "a"
url = 7
signing = "none"
[endpoint.headers]
x-own = "fine"
content-length = "7"

[[tenant]]
weight = 0
"#;
    let begins = [
        "test.toml:3: delivery.connect_timeout: ",
        "test.toml:7: endpoint(a).url: 10.0.0.1 is refused",
        "test.toml:8: endpoint(a).format: ",
        "test.toml:10: endpoint(a).filter: is wrong at line 1",
        "test.toml:13: endpoint(a).auth.url: 10.0.0.1 is refused",
        // It is there, so nobody is told that it is required.
        "test.toml:15: endpoint(a).auth.clientSecret: invalid type",
        "test.toml:18: endpoint(a).id: this id is there twice",
        "test.toml:19: endpoint(a).url: 127.0.0.1 is refused",
        "test.toml:20: endpoint(a).concurency: unknown key",
        "test.toml:24: endpoint(a).id: this id is there twice",
        "test.toml:25: endpoint(a).url: invalid type",
        "test.toml:29: endpoint(a).headers.content-length: ",
        "test.toml:31: tenant[0].id: is required",
        "test.toml:32: tenant[0].weight: is 0",
    ];
    assert_begin(&problems(text, &[]), &begins);
}

#[test]
fn what_is_no_table_is_told_how_it_is_written() {
    let text = "api = 3\nlogging = [\"info\", \"text\"]\ntenant = [\"x\"]\n[endpoint]\nid = \"a b\"\nurl = \"https://example.com\"\nsigning = \"none\"\n";
    let found = problems(text, &[("POSTHASTE_TENANT__ID", "x")]);
    let begins = [
        "test.toml:1: api: is no table: write [api] once",
        "test.toml:2: logging: is no table: write [logging] once",
        "test.toml:3: tenant[0]: is no table: write [[tenant]]",
        "test.toml:4: endpoint: is no list of tables: write [[endpoint]]",
        "test.toml:5: endpoint(a b).id: `a b` is no id",
        "POSTHASTE_TENANT__ID: a variable cannot name one of many: write [[tenant]] in the file",
    ];
    assert_begin(&found, &begins);
}

#[test]
fn a_mistake_of_type_is_told_with_what_would_be_right() {
    let text = r#"
[admin]
listen = "localhost"
[log]
data_directory = 7
partitions = "many"
[scheduler]
degraded_share = "half"
[delivery]
allow_networks = ["ten"]
[[endpoint]]
id = "a"
url = "https://example.com/"
secret = 7
auth = "bearer"
"#;
    let found = problems(text, &[]);
    let right = [
        "such as \"127.0.0.1:8080\"",
        "write it in quotes",
        "write a whole number",
        "write a number",
        "such as \"10.0.0.0/8\"",
        "must be a secret, or a list of secrets",
        "write a table",
    ];
    assert_eq!(found.len(), right.len(), "{found:#?}");
    for (found, right) in found.iter().zip(right) {
        assert!(found.contains(right), "{found}\n{right}");
    }
}

#[test]
fn a_secret_without_quotes_is_not_repeated() {
    let text = r#"
[api]
admin_token = 123456789012345678
[registry]
key = [123456789012345678]
[[endpoint]]
id = "a"
url = "https://hooks.example.com"
signing = "none"
auth = { type = "bearer", token = 123456789012345678 }
headers = { Authorization = 123456789012345678 }
"#;
    let found = problems(text, &[]);
    assert_eq!(found.len(), 4, "{found:#?}");
    for problem in found {
        assert!(!problem.contains("1234567890") && problem.contains("expected"), "{problem}");
    }
}

#[test]
fn a_mistake_causes_no_others() {
    let text = r#"
[api]
listen = 5
[admin]
listen = "127.0.0.1:8080"
[delivery]
allow_networks = "127.0.0.0/8"
[[endpoint]]
id = "a"
url = "http://127.0.0.1/"
signing = "none"
[log]
max_record = "small"
[ingest]
event = "10MiB"
"#;
    let begin = ["test.toml:3: api.listen: ", "test.toml:7: delivery.allow_networks: ", "test.toml:13: log.max_record: "];
    assert_begin(&problems(text, &[]), &begin);
    let mended = text.replace("\"small\"", "\"1MiB\"").replace("= 5", "= \"127.0.0.1:8080\"").replace("\"127.0.0.0/8\"", "[]");
    let begin = ["test.toml:5: admin.listen: ", "test.toml:10: endpoint(a).url: ", "test.toml:15: ingest.event: "];
    assert_begin(&problems(&mended, &[]), &begin);
}

#[test]
fn files_that_cannot_be_used_are_problems_of_the_daemon_alone() {
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let path = empty.path().display();
    let text = format!("[log]\ndata_directory = \"{path}/data\"\n[delivery]\nca_file = \"{path}\"\n");
    let expected = [
        format!("test.toml:2: log.data_directory: {path} is no directory"),
        format!("test.toml:4: delivery.ca_file: {path}: holds no certificate"),
    ];
    assert_begin(&problems(&text, &[]), &expected.each_ref().map(String::as_str));
    let missing = problems("", &[("POSTHASTE_DELIVERY__CA_FILE", "/nowhere/ca.pem")]);
    assert_begin(&missing, &["POSTHASTE_DELIVERY__CA_FILE: delivery.ca_file: /nowhere/ca.pem: cannot be read as PEM"]);

    let made = rcgen::generate_simple_self_signed(["here".to_owned()]).expect("made").cert.pem();
    std::fs::write(empty.path(), made).expect("written");
    assert_eq!(problems(&format!("[delivery]\nca_file = \"{path}\"\n"), &[]), Vec::<String>::new());

    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[delivery]\nca_file = \"/nowhere/ca.pem\"\n").expect("written");
    assert!(load(Some(file.path()), []).is_err());
    load_for_client(Some(file.path()), []).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn properties_of_librdkafka_are_problems_with_their_own_lines() {
    let text = r#"
[kafka.properties]
"client.rack" = "a"
"linger.ms" = "soon"
"no.such.thing" = 1
"security.protocol" = "tls"
acks = 1
sasl.mechanims = "PLAIN"
ssl = ["x"]
"#;
    let begins = [
        "test.toml:4: kafka.properties.linger.ms: librdkafka: ",
        "test.toml:5: kafka.properties.no.such.thing: librdkafka has no property of this name",
        "test.toml:6: kafka.properties.security.protocol: `tls` is none of plaintext, ssl, ",
        "test.toml:7: kafka.properties.acks: cannot be set: ",
        "test.toml:8: kafka.properties.sasl.mechanims: librdkafka has no property of this name",
        "test.toml:9: kafka.properties.ssl: must be text, a number, true or false",
    ];
    assert_begin(&problems(text, &[]), &begins);

    let together =
        "[kafka.properties]\n\"sasl.mechanism\" = \"PLAIN\"\n\"security.protocol\" = \"sasl_plaintext\"\n\"fetch.max.bytes\" = 1000\n";
    let begins = [
        "test.toml:1: kafka.properties: librdkafka: sasl.username and sasl.password must be set",
        "test.toml:4: kafka.properties.fetch.max.bytes: librdkafka: ",
    ];
    assert_begin(&problems(together, &[]), &begins);
}

#[test]
fn values_are_judged_each_with_what_would_be_right() {
    let text = r#"
[delivery]
response_timeout = 5
allow_networks = ["10.0.0.0/8", "ten", "127.0.0.0/33"]
http2 = "yes"

[scheduler]
slots = 7

[topics]
events = "one"

[log]
backend = "sqllite"
max_record = "2 parsecs"

"#;
    let found = problems(text, &[("POSTHASTE_HEALTH__DEGRADED_AT", "minus"), ("POSTHASTE_HEALTH__INACTIVE_AT", "5")]);
    let expected = [
        "test.toml:3: delivery.response_timeout: ",
        "test.toml:4: delivery.allow_networks: ",
        "test.toml:4: delivery.allow_networks: ",
        "test.toml:5: delivery.http2: ",
        "test.toml:8: scheduler.slots: must be between 64",
        "test.toml:8: scheduler.slots: must be at least 16 for each",
        "test.toml:11: topics.events: ",
        "test.toml:14: log.backend: unknown value `sqllite`; did you mean `sqlite`?",
        "test.toml:15: log.max_record: ",
        "POSTHASTE_HEALTH__DEGRADED_AT: health.degraded_at: ",
        "POSTHASTE_HEALTH__INACTIVE_AT: health.inactive_at: ",
    ];
    assert_begin(&found, &expected);
}

#[test]
fn the_environment_is_written_as_toml_where_it_is_a_list_or_a_table() {
    let environment = [
        ("POSTHASTE_DELIVERY__ALLOW_NETWORKS", "[\"127.0.0.0/8\"]"),
        ("POSTHASTE_KAFKA__GROUP", "7"),
        ("POSTHASTE_KAFKA__BROKERS", "a:1,b:2"),
        ("POSTHASTE_KAFKA__PROPERTIES", "{ \"sasl.password\" = \"p\" }"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded =
        parse("test.toml", "[kafka.properties]\n\"client.rack\" = \"r\"\n", environment).unwrap_or_else(|problems| panic!("{problems}"));
    let config = &loaded.config;
    assert_eq!(config.delivery.allow_networks.len(), 1);
    assert_eq!((config.kafka.group.as_str(), config.kafka.brokers.as_str()), ("7", "a:1,b:2"));
    assert_eq!(config.kafka.properties.0.keys().collect::<Vec<_>>(), ["client.rack", "sasl.password"]);
}

#[test]
fn what_is_printed_is_whole_and_holds_no_secret() {
    // A build without TLS refuses the name.
    let pem = if cfg!(feature = "kafka-tls") { "\"ssl.key.pem\" = \"hidden-2\"" } else { "" };
    let text = r#"
[kafka]
group = "mine"
[kafka.properties]
"sasl.password" = "hidden-1"
PEM
[registry]
key = "aGlkZGVuLTMtaGlkZGVuLTMtaGlkZGVuLTMtaGlkZG4="
[delivery]
proxy = "http://user:hidden-4@proxy:3128"
[[endpoint]]
id = "a"
url = "https://example.com/"
signing = "hub"
secret = "4444444444444444444444444444444444444444444444444444444444444444"
[endpoint.headers]
X-Token = "hidden-5"
[endpoint.auth]
type = "basic"
username = "u"
password = "hidden-6"
[[endpoint]]
id = "b"
url = "https://example.com/"
signing = "none"
[endpoint.auth]
type = "oauth2"
url = "https://idp.example.com/token"
clientId = "c"
clientSecret = "hidden-7"
refreshToken = "hidden-8"
headers = { X-Key = "hidden-9" }
queryParams = { audience = "hidden-10" }
"#
    .replace("PEM", pem);
    let printed = parse("test.toml", &text, []).unwrap_or_else(|problems| panic!("{problems}")).print();
    assert!(!printed.contains("hidden") && !printed.contains("aGlk") && !printed.contains("4444"), "{printed}");
    assert!(
        printed.contains("group = \"mine\"") && printed.contains("response_timeout = \"5s\"") && printed.contains("username = \"u\""),
        "{printed}"
    );
}

#[test]
fn a_problem_of_a_section_names_the_key_once() {
    assert_eq!(
        problems("[kafka]\ngroup = \"\"\n", &[]),
        ["test.toml:2: kafka.group: is empty: instances that share the work need one name"]
    );
}

#[test]
fn a_cluster_is_given_its_secrets_and_who_asks_it_something_need_not_know_them() {
    let text = "[log]\nbackend = \"kafka\"\n";
    let found = problems(text, &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("(default): registry.key: is missing") && found[0].contains("POSTHASTE_REGISTRY__KEY"), "{found:?}");
    assert!(found[1].starts_with("(default): api.admin_token: is missing") && found[1].contains("POSTHASTE_API__ADMIN_TOKEN"), "{found:?}");

    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    assert!(load(Some(file.path()), []).is_err());
    load_for_client(Some(file.path()), []).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn the_example_files_are_without_problems() {
    let secrets = [
        ("POSTHASTE_REGISTRY__KEY".to_owned(), "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=".to_owned()),
        ("POSTHASTE_API__ADMIN_TOKEN".to_owned(), "0123456789abcdef".to_owned()),
    ];
    for (name, text) in
        [("standalone.toml", include_str!("../../config/standalone.toml")), ("cluster.toml", include_str!("../../config/cluster.toml"))]
    {
        parse(name, text, secrets.clone()).unwrap_or_else(|problems| panic!("{problems}"));
    }
}
