//! The Anthropic Messages protocol: which turn a conversation is at, and that turn as a message or an event stream.

use serde_json::{Value, json};

use crate::{
    endpoint::{Reply, Request},
    script::{Script, ToolResult, Turn, array, events, text_of},
};

/// Answers a client of the Messages API. Side requests (titles, token counts, telemetry) get harmless replies.
pub(crate) fn answer(script: &Script, request: &Request) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v1/messages") => message(script, &request.body),
        ("POST", "/v1/messages/count_tokens") => Reply::aside(200, &json!({"input_tokens": 10})),
        ("GET" | "HEAD", "/") => Reply::aside(200, &json!({})),
        ("GET", "/v1/models") => Reply::aside(200, &json!({"data": [], "has_more": false})),
        _ => Reply::aside(
            404,
            &json!({"type": "error", "error": {"type": "not_found_error", "message": "not scripted"}}),
        ),
    }
}

fn message(script: &Script, body: &Value) -> Reply {
    let results = tool_results(body);
    let tools: Vec<&str> = array(&body["tools"]).iter().filter_map(|tool| tool["name"].as_str()).collect();
    let (turn, note) = script.next(results.len(), &tools);
    let (block, stop) = match turn {
        Turn::Call(call) => {
            let id = Script::call_id(results.len());
            (json!({"type": "tool_use", "id": id, "name": call.tool, "input": call.input}), "tool_use")
        }
        Turn::Text(text) => (json!({"type": "text", "text": text}), "end_turn"),
    };
    let message = |content: &[&Value], stop: Option<&str>| {
        json!({
            "id": format!("msg_{:020}", results.len()), "type": "message", "role": "assistant",
            "model": body["model"], "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": {
                "input_tokens": 10, "output_tokens": 10,
                "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            },
        })
    };
    let (content_type, body) = if body["stream"] == json!(true) {
        ("text/event-stream", stream(&message(&[], None), &block, stop))
    } else {
        ("application/json", message(&[&block], Some(stop)).to_string())
    };
    Reply { status: 200, content_type, body, note, results }
}

fn stream(message: &Value, block: &Value, stop: &str) -> String {
    // A stream opens a block empty and fills it with deltas.
    let (start, delta) = if block["type"] == json!("tool_use") {
        (
            json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
            json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}),
        )
    } else {
        (json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": block["text"]}))
    };
    let stream = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": start}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({
            "type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": {"output_tokens": 10},
        }),
        json!({"type": "message_stop"}),
    ];
    events(&stream)
}

/// The results in a conversation, oldest first: as many as calls were answered.
fn tool_results(body: &Value) -> Vec<ToolResult> {
    array(&body["messages"])
        .iter()
        .flat_map(|message| array(&message["content"]))
        .filter(|block| block["type"] == json!("tool_result"))
        .map(|block| ToolResult {
            id: block["tool_use_id"].as_str().unwrap_or_default().to_owned(),
            is_error: block["is_error"] == json!(true),
            text: text_of(&block["content"]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Call;

    fn reply(method: &str, path: &str, body: Value) -> Reply {
        let script = Script(vec![
            Turn::Call(Call { tool: "Bash", input: json!({"command": "id"}) }),
            Turn::Text("done".into()),
        ]);
        answer(&script, &Request { method: method.into(), path: path.into(), body })
    }

    fn said(body: Value) -> Value {
        let reply = reply("POST", "/v1/messages", body);
        assert_eq!((reply.status, reply.content_type), (200, "application/json"));
        let message: Value = serde_json::from_str(&reply.body).unwrap();
        message["content"][0].clone()
    }

    #[test]
    fn the_conversation_says_which_turn_it_is() {
        let tools = json!([{"name": "Bash"}]);
        let question = json!({"role": "user", "content": "do it"});
        let first = json!({"tools": tools, "messages": [question]});
        assert_eq!(said(first.clone())["name"], "Bash");
        assert_eq!(said(first)["name"], "Bash", "a repeated request is answered as before");
        let result =
            json!({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "0"}]});
        let second = json!({"tools": tools, "messages": [question, {"role": "user", "content": [result]}]});
        assert_eq!(said(second.clone())["text"], "done");
        assert_eq!(reply("POST", "/v1/messages", second).results[0].text, "0");
    }

    #[test]
    fn what_is_no_part_of_the_script_gets_a_harmless_answer() {
        assert_eq!(said(json!({"messages": []}))["type"], "text", "a title or summary has no tools");
        assert_eq!(said(Value::Null)["type"], "text", "not JSON");
        let unknown = said(json!({"tools": [{"name": "Other"}], "messages": []}));
        assert!(unknown["text"].as_str().unwrap().contains("offers no Bash"), "{unknown}");
        for (method, path, status) in [
            ("POST", "/v1/messages/count_tokens", 200),
            ("HEAD", "/", 200),
            ("GET", "/v1/models", 200),
            ("POST", "/api/event_logging/batch", 404),
        ] {
            let reply = reply(method, path, Value::Null);
            assert_eq!(reply.status, status, "{path}");
            serde_json::from_str::<Value>(&reply.body).unwrap();
        }
    }

    #[test]
    fn a_stream_carries_the_call_in_pieces() {
        let body = json!({"stream": true, "tools": [{"name": "Bash"}], "messages": []});
        let reply = reply("POST", "/v1/messages", body);
        assert_eq!(reply.content_type, "text/event-stream");
        let events: Vec<Value> = reply
            .body
            .split_terminator("\n\n")
            .map(|frame| serde_json::from_str(frame.split_once("\ndata: ").unwrap().1).unwrap())
            .collect();
        assert_eq!(events[1]["content_block"]["input"], json!({}));
        let input = events[2]["delta"]["partial_json"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(input).unwrap(), json!({"command": "id"}));
        assert_eq!(events[4]["delta"]["stop_reason"], "tool_use");
    }
}
