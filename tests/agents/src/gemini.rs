//! The Gemini protocol: which turn a conversation is at, and that turn as one candidate.

use serde_json::{Value, json};

use crate::{
    endpoint::{Reply, Request},
    script::{Script, ToolResult, Turn, array},
};

/// Answers a client of `generateContent` and `streamGenerateContent`.
pub(crate) fn answer(script: &Script, request: &Request) -> Reply {
    match (request.method.as_str(), request.path.rsplit_once(':').map(|(_, verb)| verb)) {
        ("POST", Some("streamGenerateContent")) => content(script, &request.body, true),
        ("POST", Some("generateContent")) => content(script, &request.body, false),
        ("POST", Some("countTokens")) => Reply::aside(200, &json!({"totalTokens": 10})),
        _ => Reply::aside(404, &json!({"error": {"code": 404, "message": "not scripted"}})),
    }
}

fn content(script: &Script, body: &Value, stream: bool) -> Reply {
    let results = tool_results(body);
    let tools: Vec<&str> = array(&body["tools"])
        .iter()
        .flat_map(|tool| array(&tool["functionDeclarations"]))
        .filter_map(|tool| tool["name"].as_str())
        .collect();
    let (turn, note) = script.next(results.len(), &tools);
    let part = match turn {
        Turn::Call(call) => json!({"functionCall": {"name": call.tool, "args": call.input}}),
        // Questions of the client's own want JSON.
        Turn::Text(_)
            if body.pointer("/generationConfig/responseMimeType") == Some(&json!("application/json")) =>
        {
            json!({"text": "{}"})
        }
        Turn::Text(text) => json!({"text": text}),
    };
    let reply = json!({
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 10, "totalTokenCount": 20},
    });
    let (content_type, body) = if stream {
        ("text/event-stream", format!("data: {reply}\n\n"))
    } else {
        ("application/json", reply.to_string())
    };
    Reply { status: 200, content_type, body, note, results }
}

/// The results in a conversation, oldest first.
fn tool_results(body: &Value) -> Vec<ToolResult> {
    array(&body["contents"])
        .iter()
        .flat_map(|content| array(&content["parts"]))
        .filter_map(|part| part.get("functionResponse"))
        .map(|result| ToolResult {
            id: result["id"].as_str().unwrap_or_default().to_owned(),
            is_error: result["response"].get("error").is_some(),
            text: result["response"].to_string(),
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
            Turn::Call(Call { tool: "run_shell_command", input: json!({"command": "id"}) }),
            Turn::Text("done".into()),
        ]);
        let said = |body: Value| {
            let request =
                Request { method: "POST".into(), path: "/v1beta/models/m:generateContent".into(), body };
            let reply: Value = serde_json::from_str(&answer(&script, &request).body).unwrap();
            reply["candidates"][0]["content"]["parts"][0].clone()
        };
        let tools = json!([{"functionDeclarations": [{"name": "run_shell_command"}]}]);
        assert_eq!(said(json!({"tools": tools}))["functionCall"]["args"]["command"], "id");
        let result = json!({"functionResponse": {"name": "x", "response": {"output": "0"}}});
        let later = json!({"tools": tools, "contents": [{"role": "user", "parts": [result]}]});
        assert_eq!(said(later)["text"], "done");
        let own = json!({"generationConfig": {"responseMimeType": "application/json"}});
        assert_eq!(said(own)["text"], "{}");
    }
}
