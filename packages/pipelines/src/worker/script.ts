// The worker script that `{ worker: true }` starts.
import { serveWorker } from "./host.ts";

serveWorker();
