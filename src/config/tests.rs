use super::*;

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
