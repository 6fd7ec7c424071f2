import * as library from "@diffusers-web/pipelines";

declare global {
  interface Window {
    /** What a page that uses the library has at hand. */
    library: typeof library;
    /** Starts a worker with a script of the page's own: see worker_own.ts. */
    startOwn(): Worker;
    /** What the page's own worker has said besides. */
    said: unknown[];
  }
}

window.library = library;
window.said = [];
new BroadcastChannel("own").onmessage = ({ data }) => window.said.push(data);
window.startOwn = () => new Worker(new URL("./worker_own.ts", import.meta.url), { type: "module" });
