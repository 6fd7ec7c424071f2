import { RawImage } from "@diffusers-web/core";

/** Reads the file it is sent, and answers with what it read, what its canvas shows, and how `save` failed. */
self.onmessage = async ({ data }: MessageEvent<Uint8Array>) => {
  const image = await RawImage.read(data);
  const shown = await RawImage.read(image.toCanvas());
  const refused = await image.save("x.png").catch((error: Error) => `${error.name}: ${error.message}`);
  self.postMessage({ read: [...image.data], shown: [...shown.data], refused });
};
