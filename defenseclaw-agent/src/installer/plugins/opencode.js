// DefenseClaw's part of opencode: asks `defenseclaw hook opencode` about each event, and does what it says.
// Written by `defenseclaw connector install opencode`; `defenseclaw connector remove opencode` takes it away.
import { spawn } from "node:child_process";

const PROGRAM = "@PROGRAM@";
const ARGUMENTS = "@ARGUMENTS@";
const CLOSED = "@CLOSED@";
const HOLDS = "@HOLDS@";
// Longer than `defenseclaw hook` itself takes; a person may be asked before a tool runs.
const DEADLINE = 30000;
const HELD_DEADLINE = 110000;

function ask(payload) {
  return new Promise((resolve, reject) => {
    const child = spawn(PROGRAM, ["hook", "opencode", ...ARGUMENTS], { stdio: ["pipe", "pipe", "ignore"] });
    const timer = setTimeout(() => {
      child.kill();
      reject(new Error("no answer in time"));
    }, HOLDS && payload.hook === "tool.execute.before" ? HELD_DEADLINE : DEADLINE);
    let out = "";
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (text) => (out += text));
    child.on("error", reject);
    child.stdin.on("error", () => {});
    child.on("close", (code) => {
      clearTimeout(timer);
      try {
        if (code !== 0) throw new Error(`exit code ${code}`);
        resolve(out.trim() === "" ? {} : JSON.parse(out));
      } catch (err) {
        reject(err);
      }
    });
    child.stdin.end(JSON.stringify(payload));
  });
}

async function answer(payload, held) {
  try {
    return await ask(payload);
  } catch (err) {
    return CLOSED && held ? { throw: `DefenseClaw gave no answer: ${err.message}` } : {};
  }
}

const BUS = ["session.created", "session.idle", "permission.asked"];

export const DefenseClaw = async ({ directory }) => ({
  "tool.execute.before": async (input, output) => {
    const said = await answer({ hook: "tool.execute.before", input, output, directory }, true);
    if (said.throw) throw new Error(said.throw);
  },
  "tool.execute.after": async (input, output) => {
    const said = await answer({ hook: "tool.execute.after", input, output, directory }, false);
    if (said.output) output.output = said.output;
  },
  "chat.message": async (input, output) => {
    const said = await answer({ hook: "chat.message", input, output, directory }, true);
    if (said.throw) throw new Error(said.throw);
  },
  event: async ({ event }) => {
    if (BUS.includes(event.type)) await answer({ hook: "event", input: event, output: {}, directory }, false);
  },
});
