//! The `OpenAI` Chat Completions protocol: which turn a conversation is at, and that turn as one message or as chunks.

use serde_json::{Value, json};

use crate::{
    endpoint::{Reply, Request},
    script::{Script, ToolResult, Turn, array, text_of},
};

/// Answers a client of the Chat Completions API.
pub(crate) fn answer(script: &Script, request: &Request) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v1/chat/completions") => completion(script, &request.body),
        ("GET", "/v1/models") => Reply::aside(200, &json!({"object": "list", "data": []})),
        _ => Reply::aside(404, &json!({"error": {"message": "not scripted"}})),
    }
}

fn completion(script: &Script, body: &Value) -> Reply {
    let results = tool_results(body);
    let tools: Vec<&str> =
        array(&body["tools"]).iter().filter_map(|tool| tool.pointer("/function/name")?.as_str()).collect();
    let (turn, note) = script.next(results.len(), &tools);
    let (message, stop) = match turn {
        Turn::Call(call) => {
            let function = json!({"name": call.tool, "arguments": call.input.to_string()});
            let id = Script::call_id(results.len());
            let call = json!({"index": 0, "id": id, "type": "function", "function": function});
            (json!({"role": "assistant", "content": null, "tool_calls": [call]}), "tool_calls")
        }
        Turn::Text(text) => (json!({"role": "assistant", "content": text}), "stop"),
    };
    let reply = |object: &str, choice: Value| {
        json!({
            "id": format!("chatcmpl-{:020}", results.len()), "object": object, "created": 1,
            "model": body["model"], "choices": [choice],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
        })
    };
    let (content_type, text) = if body["stream"] == json!(true) {
        let chunk = |delta: Value, stop: Value| {
            reply("chat.completion.chunk", json!({"index": 0, "delta": delta, "finish_reason": stop}))
        };
        let (first, last) = (chunk(message, Value::Null), chunk(json!({}), json!(stop)));
        ("text/event-stream", format!("data: {first}\n\ndata: {last}\n\ndata: [DONE]\n\n"))
    } else {
        let choice = json!({"index": 0, "message": message, "finish_reason": stop});
        ("application/json", reply("chat.completion", choice).to_string())
    };
    Reply { status: 200, content_type, body: text, note, results }
}

/// The results in a conversation, oldest first.
fn tool_results(body: &Value) -> Vec<ToolResult> {
    array(&body["messages"])
        .iter()
        .filter(|message| message["role"] == json!("tool"))
        .map(|message| ToolResult {
            id: message["tool_call_id"].as_str().unwrap_or_default().to_owned(),
            is_error: false,
            text: text_of(&message["content"]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Call;

    #[test]
    fn the_conversation_says_which_turn_it_is() {
        let script = Script(vec![
            Turn::Call(Call { tool: "bash", input: json!({"command": "id"}) }),
            Turn::Text("done".into()),
        ]);
        let said = |body: Value| {
            let request = Request { method: "POST".into(), path: "/v1/chat/completions".into(), body };
            let reply: Value = serde_json::from_str(&answer(&script, &request).body).unwrap();
            reply["choices"][0]["message"].clone()
        };
        let tools = json!([{"type": "function", "function": {"name": "bash"}}]);
        let first = said(json!({"tools": tools, "messages": []}));
        assert_eq!(first["tool_calls"][0]["function"]["arguments"], json!({"command": "id"}).to_string());
        let result = json!({"role": "tool", "tool_call_id": "x", "content": "0"});
        assert_eq!(said(json!({"tools": tools, "messages": [result]}))["content"], "done");
        assert_eq!(said(json!({"messages": []}))["content"], "Scripted", "a title has no tools");
    }
}
