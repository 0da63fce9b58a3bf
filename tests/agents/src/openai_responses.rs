//! The `OpenAI` Responses protocol, as an event stream: which turn a conversation is at, and that turn as one item.

use serde_json::{Value, json};

use crate::{
    endpoint::{Reply, Request},
    script::{Script, ToolResult, Turn, array, events, text_of},
};

/// Answers a client of the Responses API, which is Codex.
pub(crate) fn answer(script: &Script, request: &Request) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v1/responses") => response(script, &request.body),
        ("GET", "/v1/models") => Reply::aside(200, &json!({"data": [], "models": []})),
        _ => Reply::aside(404, &json!({"error": {"message": "not scripted"}})),
    }
}

fn response(script: &Script, body: &Value) -> Reply {
    let results = tool_results(body);
    let mut tools = offered(body);
    if let Turn::Call(call) = script.turn(results.len()) {
        tools.extend(deferred(body, call.tool));
    }
    let names: Vec<&str> = tools.iter().map(|tool| tool.full.as_str()).collect();
    let (turn, note) = script.next(results.len(), &names);
    let id = Script::call_id(results.len());
    let item = match turn {
        Turn::Call(call) => {
            let tool = tools.iter().find(|tool| tool.full == call.tool);
            let name = tool.map_or(call.tool, |tool| tool.name.as_str());
            if tool.is_some_and(|tool| tool.takes_text) {
                let input = call.input.as_str().unwrap_or_default();
                json!({"type": "custom_tool_call", "id": "ctc_1", "call_id": id, "name": name, "input": input,
                    "status": "completed"})
            } else {
                let mut item = json!({"type": "function_call", "id": "fc_1", "call_id": id, "name": name,
                    "arguments": call.input.to_string(), "status": "completed"});
                let namespace = tool.and_then(|tool| tool.namespace.as_ref());
                if let (Some(namespace), Some(item)) = (namespace, item.as_object_mut()) {
                    item.insert("namespace".into(), json!(namespace));
                }
                item
            }
        }
        Turn::Text(text) => {
            json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}]})
        }
    };
    let response = |status: &str, output: &[&Value]| {
        json!({
            "id": format!("resp_{:020}", results.len()), "object": "response", "created_at": 1,
            "model": body["model"], "status": status, "output": output,
            "usage": {
                "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 20,
            },
        })
    };
    let stream = [
        json!({"type": "response.created", "response": response("in_progress", &[])}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": response("completed", &[&item])}),
    ];
    Reply { status: 200, content_type: "text/event-stream", body: events(&stream), note, results }
}

/// A tool that the client offers.
struct Tool {
    /// With its namespace, as scripts name it.
    full: String,
    namespace: Option<String>,
    name: String,
    /// It takes a text instead of JSON.
    takes_text: bool,
}

fn offered(body: &Value) -> Vec<Tool> {
    let mut found = Vec::new();
    for tool in array(&body["tools"]) {
        let name = tool["name"].as_str().unwrap_or_default().to_owned();
        if tool["type"] == json!("namespace") {
            for inner in array(&tool["tools"]) {
                let inner = inner["name"].as_str().unwrap_or_default().to_owned();
                let full = format!("{name}__{inner}");
                found.push(Tool { full, namespace: Some(name.clone()), name: inner, takes_text: false });
            }
        } else {
            let takes_text = tool["type"] == json!("custom");
            found.push(Tool { full: name.clone(), namespace: None, name, takes_text });
        }
    }
    found
}

/// A tool of an MCP server that the client keeps behind its search for tools: it takes a call without a search, too.
fn deferred(body: &Value, name: &str) -> Option<Tool> {
    let is_search = |tool: &Value| tool["type"] == json!("tool_search");
    let (namespace, tool) = name.rsplit_once("__").filter(|(namespace, _)| namespace.starts_with("mcp__"))?;
    array(&body["tools"]).iter().any(is_search).then(|| Tool {
        full: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        name: tool.to_owned(),
        takes_text: false,
    })
}

/// The results in a conversation, oldest first.
fn tool_results(body: &Value) -> Vec<ToolResult> {
    let is_result = |item: &&Value| item["type"].as_str().is_some_and(|kind| kind.ends_with("_call_output"));
    array(&body["input"])
        .iter()
        .filter(is_result)
        .map(|item| ToolResult {
            id: item["call_id"].as_str().unwrap_or_default().to_owned(),
            is_error: false,
            text: text_of(&item["output"]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Call;

    fn item(turn: usize, tools: &Value) -> Value {
        let script = Script(vec![
            Turn::Call(Call { tool: "exec_command", input: json!({"cmd": "id"}) }),
            Turn::Call(Call { tool: "mcp__lab__lookup", input: json!({"text": "x"}) }),
            Turn::Call(Call { tool: "apply_patch", input: json!("*** Begin Patch") }),
        ]);
        let input: Vec<Value> = (0..turn)
            .map(|turn| json!({"type": "function_call_output", "call_id": turn, "output": "0"}))
            .collect();
        let body = json!({"stream": true, "tools": tools, "input": input});
        let reply = answer(&script, &Request { method: "POST".into(), path: "/v1/responses".into(), body });
        let last = reply.body.trim_end().rsplit_once("data: ").unwrap().1;
        serde_json::from_str::<Value>(last).unwrap()["response"]["output"][0].clone()
    }

    #[test]
    fn a_call_is_written_as_the_client_offers_it() {
        let tools = json!([
            {"type": "function", "name": "exec_command"},
            {"type": "custom", "name": "apply_patch"},
            {"type": "namespace", "name": "mcp__lab", "tools": [{"type": "function", "name": "lookup"}]},
        ]);
        assert_eq!(item(0, &tools)["arguments"], json!({"cmd": "id"}).to_string());
        let nested = item(1, &tools);
        assert_eq!((&nested["namespace"], &nested["name"]), (&json!("mcp__lab"), &json!("lookup")));
        assert_eq!(item(2, &tools)["input"], "*** Begin Patch");
        assert_eq!(
            item(0, &json!([]))["type"],
            "message",
            "a request without tools is no part of the script"
        );
    }
}
