// DefenseClaw's part of OpenClaw: asks `defenseclaw hook openclaw` about each event, and returns what it says.
// Written by `defenseclaw connector install openclaw`; `defenseclaw connector remove openclaw` takes it away.
import { spawn } from "node:child_process";

const PROGRAM = "@PROGRAM@";
const ARGUMENTS = "@ARGUMENTS@";
const CLOSED = "@CLOSED@";
const HOLDS = "@HOLDS@";
// Longer than `defenseclaw hook` itself takes, and shorter than OpenClaw waits; a person may be asked before a tool runs.
const DEADLINE = 14000;
const HELD_DEADLINE = 105000;
const HELD_TIMEOUT = 110000;
const HELD = ["before_tool_call", "before_agent_run"];
const SEEN = ["after_tool_call", "agent_end", "session_start", "session_end"];

const isHeld = (hook) => HOLDS && hook === "before_tool_call";

function ask(payload) {
  return new Promise((resolve, reject) => {
    const child = spawn(PROGRAM, ["hook", "openclaw", ...ARGUMENTS], { stdio: ["pipe", "pipe", "ignore"] });
    const timer = setTimeout(() => {
      child.kill();
      reject(new Error("no answer in time"));
    }, isHeld(payload.hook) ? HELD_DEADLINE : DEADLINE);
    let out = "";
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (text) => (out += text));
    child.on("error", reject);
    child.stdin.on("error", () => {});
    child.on("close", (code) => {
      clearTimeout(timer);
      try {
        if (code !== 0) throw new Error(`exit code ${code}`);
        resolve(out.trim() === "" ? undefined : JSON.parse(out));
      } catch (err) {
        reject(err);
      }
    });
    child.stdin.end(JSON.stringify(payload));
  });
}

// Only the hooks about a run say where it works; those about its tools do not.
const RUNS = 1000;
const directories = new Map();

function directoryOf(ctx) {
  const run = ctx?.runId;
  if (ctx?.workspaceDir && run && !directories.has(run)) {
    directories.set(run, ctx.workspaceDir);
    if (directories.size > RUNS) directories.delete(directories.keys().next().value);
  }
  return ctx?.workspaceDir ?? directories.get(run);
}

async function answer(hook, event, ctx) {
  try {
    return await ask({ hook, event, ctx, directory: directoryOf(ctx) });
  } catch (err) {
    if (!CLOSED || !HELD.includes(hook)) return undefined;
    const why = `DefenseClaw gave no answer: ${err.message}`;
    return hook === "before_tool_call" ? { block: true, blockReason: why } : { outcome: "block", reason: why };
  }
}

export default {
  id: "defenseclaw",
  name: "DefenseClaw",
  register(api) {
    for (const hook of [...HELD, ...SEEN]) {
      const options = isHeld(hook) ? { timeoutMs: HELD_TIMEOUT } : undefined;
      api.on(hook, (event, ctx) => answer(hook, event, ctx), options);
    }
  },
};
