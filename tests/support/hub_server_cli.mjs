// A test hub from the command line: folders as repositories.
//
//   node tests/support/hub_server_cli.mjs owner/name=folder [more=folders] [--port 8080] [--options '{"pageSize": 10}']
//
// Options are those of startHub; `faults` among them is a list of [path, fault]. Prints a line of JSON with the addresses
// when it is up. Goes when its standard input ends, after a line with the requests that there were; or at Ctrl+C.
import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { startHub } from "./hub_server.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { port: { type: "string" }, options: { type: "string" } },
});
const { faults = [], repos = {}, ...options } = JSON.parse(values.options ?? "{}");
for (const argument of positionals) {
  const [, name, folder] = /^([\w./-]+)=(.+)$/s.exec(argument) ?? [];
  if (name === undefined) throw new TypeError(`Give each repository as owner/name=folder, not ${argument}.`);
  const commit = createHash("sha1").update(name).digest("hex");
  repos[name] = { revisions: { main: commit }, commits: { [commit]: folder } };
}
const hub = await startHub({ ...options, repos, ...(values.port !== undefined && { port: Number(values.port) }) });
for (const [path, fault] of faults) hub.fault(path, fault);
console.log(JSON.stringify({ url: hub.url, cdn: hub.cdn }));

process.stdin.resume().once("end", async () => {
  await hub.close();
  const requests = hub.requests.map(({ host, method, kind, file, status, sent, headers }) => {
    return { host, method, kind, file, status, sent, range: headers.range, token: headers.authorization !== undefined };
  });
  console.log(JSON.stringify({ requests }));
});
