//! `--explain` and `--report`: what a compilation did, as lines and as a page.

use serde_json::Value;

use crate::{cameo, done, folder, json, models, text};

/// The data that a page carries.
fn carried(page: &str) -> Value {
    let data = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .and_then(|(_, rest)| rest.split_once("</script>"))
        .expect("the data");
    serde_json::from_str(data.0).expect("JSON")
}

#[test]
fn a_report_is_one_page_that_needs_nothing_else() {
    let dir = folder();
    models::busy(dir.path());
    done(dir.path(), ["inspect", "busy.onnx", "--report", "sub/a.html"]);
    done(dir.path(), ["inspect", "busy.onnx", "--report", "b.html"]);
    let page = std::fs::read_to_string(dir.path().join("sub/a.html")).expect("the page");
    assert_eq!(page, std::fs::read_to_string(dir.path().join("b.html")).expect("again"));
    for foreign in ["http:", "https:", "src=", "href=", "@import", "url(", "/* page."] {
        assert!(!page.contains(foreign), "{foreign}");
    }

    let data = carried(&page);
    let (found, _) = json(dir.path(), ["inspect", "busy.onnx", "--optimized", "--json"]);
    assert_eq!(data["summary"], found);
    assert_eq!(
        data["steps"].as_array().map(Vec::len),
        found["steps"].as_u64().map(|n| n as usize)
    );
    assert_eq!(
        data["kernels"].as_array().map(Vec::len),
        found["kernels"].as_u64().map(|n| n as usize)
    );
    assert_eq!(data["nominal"], 128);
    // 13 nodes, an input and an output were imported.
    let boxes = |i: usize| data["graphs"][i]["boxes"].as_array().expect("boxes");
    assert_eq!(boxes(0).len(), 15);
    assert!(boxes(1).len() < boxes(0).len());
    // Every node that is left is computed by a step, or is a view.
    let product = boxes(1).iter().find(|b| b["op"] == "MatMul").expect("the product");
    assert_eq!(product["steps"], serde_json::json!([0]));
    let names = |numbers: &Value| -> Vec<&str> {
        let number = |n: &Value| data["names"][n.as_u64().expect("a number") as usize].as_str();
        numbers.as_array().into_iter().flatten().filter_map(number).collect()
    };
    assert!(
        names(&data["steps"][0]["names"]).contains(&"mm"),
        "{}",
        data["steps"][0]
    );
    // A product and a sum for each of 12 terms of 8 results in each of N times S rows.
    let flops = (&data["steps"][0]["flops"][0], &data["steps"][0]["flops"][1]);
    assert_eq!(flops, (&"192*N*S".into(), &(192 * 128 * 128).into()));
    assert!(
        data["kernels"][0]
            .as_str()
            .is_some_and(|k| k.starts_with("contraction ")),
        "{}",
        data["kernels"]
    );
    // The decisions are those that `--explain=json` prints.
    let lines = done(dir.path(), ["inspect", "busy.onnx", "--explain=json"]);
    let decisions = data["decisions"].as_array().expect("decisions");
    assert_eq!(lines.lines().count(), decisions.len());
    for (line, decision) in lines.lines().zip(decisions) {
        let line: Value = serde_json::from_str(line).expect("JSON");
        for key in ["pass", "outcome", "rule", "reason"] {
            assert_eq!(line[key], decision[key]);
        }
        assert_eq!(line["nodes"], serde_json::json!(names(&decision["nodes"])));
    }
}

#[test]
fn a_report_shows_the_profile_of_its_own_program_only() {
    let dir = folder();
    models::busy(dir.path());
    let fixed = ["--dim", "N=2", "--dim", "S=3"];
    done(
        dir.path(),
        [&["compile", "busy.onnx", "--profile", "-q", "-o", "busy"], &fixed[..]].concat(),
    );
    let measured = std::process::Command::new(dir.path().join("busy"))
        .args(["--runs", "2", "--profile", "p.json"])
        .current_dir(dir.path())
        .output()
        .expect("the program runs");
    assert!(measured.status.success(), "{}", text(&measured.stderr));
    let inspect = |profile: &str, more: &[&str]| {
        cameo(
            dir.path(),
            [
                &["inspect", "busy.onnx", "--report", "page.html", "--profile", profile],
                more,
            ]
            .concat(),
        )
    };
    let out = inspect("p.json", &fixed);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("the page");
    let (shown, steps) = (&carried(&page)["profile"], carried(&page)["steps"].clone());
    let profile = std::fs::read_to_string(dir.path().join("p.json")).expect("the profile");
    let profile: Value = serde_json::from_str(&profile).expect("JSON");
    assert_eq!(shown["run"], profile["run"]);
    for (i, step) in steps.as_array().expect("steps").iter().enumerate() {
        let (one, other) = (&shown["steps"][i], &profile["steps"][i]);
        assert_eq!(
            (&one["median_ms"], &one["kernel"]),
            (&other["median_ms"], &step["kernel"])
        );
        // Page and program count alike: here all sizes are fixed.
        assert_eq!(other["flops"], step["flops"][1]);
        let bytes = |key: &str| other[key].as_f64().expect("bytes");
        assert_eq!(
            Some(bytes("bytes_read") + bytes("bytes_written")),
            step["bytes"][1].as_f64()
        );
    }

    std::fs::remove_file(dir.path().join("page.html")).expect("was written");
    std::fs::write(dir.path().join("text.json"), "{\"format\": 1}").expect("is written");
    let damaged = profile
        .to_string()
        .replace("\"balance\":", "\"balanced\":")
        .replace("\"share\":", "\"part\":");
    std::fs::write(dir.path().join("damaged.json"), damaged).expect("is written");
    let other = ["--dim", "N=2", "--dim", "S=4"];
    let without = [&fixed[..], &["--disable-pass", "cse"]].concat();
    for (file, more, reason) in [
        ("p.json", &other[..], "the profile of another program"),
        ("p.json", &without, "the profile of another program"),
        ("text.json", &fixed, "no profile of a program of this compiler"),
        ("busy.onnx", &fixed, "this is no profile"),
        ("nowhere.json", &fixed, "nowhere.json"),
        ("damaged.json", &fixed, "the profile is damaged"),
    ] {
        let out = inspect(file, more);
        assert_eq!(out.status.code(), Some(1), "{file}");
        let said = text(&out.stderr);
        assert!(said.contains(file) && said.contains(reason), "{said}");
        assert!(!dir.path().join("page.html").exists());
    }
    let out = cameo(dir.path(), ["inspect", "busy.onnx", "--profile", "p.json"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn names_cannot_leave_their_place_in_a_report() {
    let dir = folder();
    let evil = "</script><b>{data}/* page.js */<!--";
    models::Model::new("evil")
        .input("x", &["2"])
        .node("Relu", evil, &["x"], "y")
        .output("y", &["2"])
        .write(dir.path());
    done(dir.path(), ["inspect", "evil.onnx", "--report", "evil.html"]);
    let page = std::fs::read_to_string(dir.path().join("evil.html")).expect("the page");
    assert_eq!(carried(&page)["names"], serde_json::json!([evil]));
    assert_eq!(
        page.matches("</script>").count(),
        2,
        "that of the data and that of the program"
    );
    assert!(!page.contains("<b>") && !page.contains("<!--"));
}

#[test]
fn a_report_of_a_model_that_is_refused_is_not_written() {
    let dir = folder();
    models::strange(dir.path());
    let out = cameo(dir.path(), ["inspect", "strange.onnx", "--report", "page.html"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("first_stranger"));
    assert!(!dir.path().join("page.html").exists());
    let out = cameo(dir.path(), ["inspect", "strange.onnx", "--explain"]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(1), String::new()));
}

#[test]
fn decisions_are_explained_as_text_and_as_json() {
    let dir = folder();
    models::busy(dir.path());
    let lines = done(dir.path(), ["inspect", "busy.onnx", "--explain"]);
    assert!(
        lines
            .lines()
            .any(|l| l.starts_with("cse: ") && l.contains(": applied [twin_a, twin_b]")),
        "{lines}"
    );
    assert_eq!(lines, done(dir.path(), ["inspect", "--explain=text", "busy.onnx"]));
    // The compiler says the same while it compiles: text to standard error, JSON to standard output.
    let flags = ["compile", "--explain", "busy.onnx", "--stop-after", "passes", "-q"];
    let out = cameo(dir.path(), flags);
    assert_eq!((text(&out.stdout), text(&out.stderr)), (String::new(), lines.clone()));
    let flags = ["compile", "busy.onnx", "--explain=json", "--stop-after", "passes", "-q"];
    let out = cameo(dir.path(), flags);
    assert_eq!(text(&out.stderr), "");
    let objects: Vec<Value> = text(&out.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).expect("an object per line"))
        .collect();
    assert_eq!(objects.len(), lines.lines().count());
    for (object, line) in objects.iter().zip(lines.lines()) {
        let keys: Vec<&String> = object.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["nodes", "outcome", "pass", "reason", "rule"]);
        let refused = object["outcome"] == "refused";
        assert!(refused || object["outcome"] == "applied");
        assert_eq!(refused, object["reason"].is_string(), "{object}");
        assert_eq!(refused, line.contains(": left alone: "), "{line}");
    }
    // Two results cannot share standard output.
    let flags = ["compile", "busy.onnx", "--explain=json", "--dump-ir-after", "cse", "-q"];
    assert_eq!(cameo(dir.path(), flags).status.code(), Some(2));
    assert_eq!(
        cameo(dir.path(), ["inspect", "busy.onnx", "--explain", "--json"])
            .status
            .code(),
        Some(2)
    );
}
