import * as core from "@diffusers-web/core";

declare global {
  interface Window {
    core: typeof core;
  }
}

window.core = core;
