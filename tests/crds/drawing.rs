//! Draws objects that a schema accepts, from a seed: the same seed gives the same object.

use serde_json::{Map, Value, json};

/// A source of choices (`SplitMix64`).
pub struct Choices(pub u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<'a, T>(&mut self, options: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(options.len() as u64)).unwrap();
        &options[index]
    }
}

const TEXTS: &[&str] = &[
    "podinfo",
    "",
    "{{ namespace }}",
    "größer",
    "x-canary: \"a\"",
    "1m30s",
    "true",
    "10",
];

/// Draws a value that `schema` accepts. `path` names fields whose type is narrower in our types than in the schema.
pub fn draw(schema: &Value, path: &str, choices: &mut Choices) -> Value {
    let mut schema = schema.clone();
    let forbidden = choose_branch(&mut schema, choices);
    if let Some(values) = schema["enum"].as_array() {
        return choices.of(values).clone();
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return choices
            .of(&[json!(8080), json!("http"), json!("0")])
            .clone();
    }
    match schema["type"].as_str() {
        Some("object") => object(&schema, path, &forbidden, choices),
        Some("array") => (0..choices.below(4))
            .map(|_| draw(&schema["items"], &format!("{path}[]"), choices))
            .collect(),
        Some("string") => text(&schema, path, choices),
        Some("boolean") => json!(choices.below(2) == 0),
        Some("integer") => {
            let least = schema["minimum"].as_u64().unwrap_or(0);
            json!(least + choices.below(1000))
        }
        Some("number") if path.contains(".metrics[].threshold") => choices
            .of(&[json!(99), json!(0.5), json!(-1.25), json!(1e9)])
            .clone(),
        Some("number") => choices
            .of(&[
                json!(0),
                json!(1),
                json!(5.0),
                json!(10),
                json!(100),
                json!(-1),
            ])
            .clone(),
        other => panic!("{path}: type {other:?}"),
    }
}

/// Chooses one branch of `oneOf`, adds what it says to the schema, and gives the fields that would meet another.
fn choose_branch(schema: &mut Value, choices: &mut Choices) -> Vec<String> {
    let Some(branches) = schema.get("oneOf").and_then(Value::as_array).cloned() else {
        return Vec::new();
    };
    let names = |branch: &Value| -> Vec<String> {
        branch["required"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    let chosen = choices.of(&branches).clone();
    let required = names(&chosen);
    let forbidden = branches
        .iter()
        .flat_map(names)
        .filter(|name| !required.contains(name))
        .collect();
    schema["required"] = json!(
        [
            schema["required"].as_array().cloned().unwrap_or_default(),
            required.iter().map(|name| json!(name)).collect()
        ]
        .concat()
    );
    for (name, extra) in chosen["properties"].as_object().into_iter().flatten() {
        for (key, rule) in extra.as_object().unwrap() {
            schema["properties"][name][key] = rule.clone();
        }
    }
    forbidden
}

fn object(schema: &Value, path: &str, forbidden: &[String], choices: &mut Choices) -> Value {
    let mut fields = Map::new();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let needed = required.contains(&json!(name));
        if needed || (choices.below(3) == 0 && !forbidden.contains(name)) {
            fields.insert(
                name.clone(),
                draw(field, &format!("{path}.{name}"), choices),
            );
        }
    }
    if let Some(values) = schema.get("additionalProperties") {
        for index in 0..choices.below(3) {
            fields.insert(
                format!("x-key-{index}"),
                draw(values, &format!("{path}[]"), choices),
            );
        }
    }
    Value::Object(fields)
}

fn text(schema: &Value, path: &str, choices: &mut Choices) -> Value {
    if path.ends_with(".conditions[].status") {
        return json!(choices.of(&["True", "False", "Unknown"]));
    }
    if schema["format"] == "date-time" {
        return json!(choices.of(&["2024-02-29T23:59:59Z", "2031-01-01T00:00:00Z"]));
    }
    match schema["pattern"].as_str() {
        Some("^[0-9]+(m|s)") => json!(choices.of(&["1m", "30s", "1m30s", "5minutes", "0s", "90s"])),
        Some(_) => json!(choices.of(&["apps", "gateway", "prod"])),
        None if schema["minLength"].as_u64() > Some(0) => {
            json!(choices.of(&["podinfo", "gateway"]))
        }
        None => json!(choices.of(TEXTS)),
    }
}
