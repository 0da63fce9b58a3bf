//! The Anthropic Messages protocol: which turn a conversation is at, and that turn as a message or an event stream.

use serde_json::{Value, json};

use crate::{
    endpoint::{Reply, Request},
    script::{Script, ToolResult, Turn},
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
    let mut turn = script.turn(results.len());
    let mut note = format!("turn {}", results.len());
    let tools: Vec<&str> = array(&body["tools"]).iter().filter_map(|tool| tool["name"].as_str()).collect();
    if tools.is_empty() {
        turn = Turn::Text("Scripted".into());
        note = "a message without tools: no part of the script".into();
    } else if let Turn::Call(call) = &turn
        && !tools.contains(&call.tool)
    {
        note = format!("{note}, but the client offers no {}, only {tools:?}", call.tool);
        turn = Turn::Text(note.clone());
    }
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
    let events = [
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
    let frame =
        |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default());
    events.iter().map(frame).collect()
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

/// Content is a text, or blocks of which some have texts.
fn text_of(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    array(content).iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
