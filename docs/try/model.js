// The packaged model in ONNX Runtime: pictures in, labels out.

import { clipOf, cropped, segmentIndices } from "./pictures.js";

const BUILT = new URL("./built/", import.meta.url);

// Runtimes by name: where each is to be found, and what it needs of the browser.
export const RUNTIMES = {
  wasm: { title: "WebAssembly", file: "ort.wasm.min.mjs", usable: async () => typeof WebAssembly === "object" },
  webgpu: { title: "WebGPU", file: "ort.webgpu.min.mjs", usable: async () => Boolean(await navigator.gpu?.requestAdapter()) },
};

export class NotBuilt extends Error {}

// The configuration that the build wrote beside the model.
export async function readConfiguration() {
  try {
    return (await import(new URL("model.js", BUILT).href)).default;
  } catch {
    throw new NotBuilt("This copy of the site has no model and no runtime.");
  }
}

export class Model {
  static async load(configuration, runtime = "wasm") {
    const ort = await import(new URL(RUNTIMES[runtime].file, BUILT).href);
    ort.env.wasm.wasmPaths = BUILT.href;
    ort.env.wasm.numThreads = 1; // more need headers that most hosts of files do not send
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(new URL(configuration.file, BUILT).href, {
      executionProviders: [runtime],
    });
    const model = new Model(configuration, runtime, ort, session);
    const { frames, size } = configuration;
    await model.classify(Array.from({ length: frames }, () => new Uint8ClampedArray(3 * size * size))); // the first run is slow
    return model;
  }

  constructor(configuration, runtime, ort, session) {
    Object.assign(this, { configuration, runtime, ort, session, turn: Promise.resolve() });
  }

  close() {
    this.turn = this.turn.then(() => this.session.release());
  }

  // Returns the crop that the network sees of a picture, RGB bytes.
  see(picture) {
    return cropped(picture, this.configuration.size);
  }

  // Picks the network's frames out of crops in a row, as from a video of so many frames.
  pick(crops) {
    return segmentIndices(crops.length, this.configuration.frames).map((index) => crops[index]);
  }

  // Returns the score of every class for exactly as many crops as the network takes, and the milliseconds it took.
  classify(crops) {
    const answer = this.turn.then(() => this.run(crops)); // a session runs one clip at a time
    this.turn = answer.catch(() => {});
    return answer;
  }

  async run(crops) {
    const { frames, size, mean, std, scores: name } = this.configuration;
    if (crops.length !== frames) throw new Error(`The network takes ${frames} frames, not ${crops.length}.`);
    const begun = performance.now();
    const input = new this.ort.Tensor("float32", clipOf(crops, size, mean, std), [1, 3, frames, size, size]);
    const output = await this.session.run({ [this.session.inputNames[0]]: input });
    const scores = Array.from(await output[name].getData());
    return { scores, milliseconds: performance.now() - begun };
  }

  // Returns the best labels, best first.
  best(scores, count = 5) {
    const order = scores.map((score, index) => ({ index, score, label: this.configuration.labels[index] }));
    return order.sort((a, b) => b.score - a.score).slice(0, count);
  }
}
