// Takes chosen frames out of a video file by seeking, and finds out how many it has: browsers do not tell.

import { segmentIndices } from "./pictures.js";

const PATIENCE = 15000; // milliseconds until a file that does not open, or does not seek, is given up
const STILL = 400; // milliseconds without a new frame after which the old one is taken to be shown
const TICKS = 30; // frames per second by which videos of variable rate are planned
const LONGEST = 3600; // seconds
const LARGEST = 500e6; // bytes
const WIDEST = 4096; // pixels

const REASONS = {
  2: "it could not be read to its end",
  3: "it is damaged, or this browser cannot decode it",
  4: "it is not a video, or its format is unknown to this browser; MP4 with H.264 and WebM play in most",
};

function waitFor(video, event) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => finish(reject, new Error(`The video does not respond (waited for '${event}').`)), PATIENCE);
    const happened = () => finish(resolve);
    const failed = () => finish(reject, new Error(REASONS[video.error?.code] ?? "it cannot be opened"));
    function finish(end, value) {
      clearTimeout(timer);
      video.removeEventListener(event, happened);
      video.removeEventListener("error", failed);
      end(value);
    }
    video.addEventListener(event, happened);
    video.addEventListener("error", failed);
  });
}

// A video file, opened.
export class VideoFile {
  static async open(file) {
    if (file.size === 0) throw new Error(`${file.name} is empty.`);
    if (file.size > LARGEST) throw new Error(`${file.name} has ${Math.round(file.size / 1e6)} MB; the page takes up to ${LARGEST / 1e6} MB.`);
    const opened = new VideoFile(file);
    try {
      await opened.named(opened.prepare());
    } catch (error) {
      opened.close();
      throw error;
    }
    return opened;
  }

  constructor(file) {
    this.name = file.name;
    this.address = URL.createObjectURL(file);
    this.video = document.createElement("video");
    Object.assign(this.video, { muted: true, playsInline: true, preload: "auto" });
    this.shown = 0; // seconds of the frame that is shown
  }

  close() {
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.address);
  }

  // Waits for some work on the file; its errors get the file's name.
  async named(work) {
    try {
      return await work;
    } catch (error) {
      throw new Error(`${this.name} cannot be used: ${error.message}`);
    }
  }

  async prepare() {
    const loaded = waitFor(this.video, "loadeddata");
    this.video.src = this.address;
    await loaded;
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width || !height) throw new Error("it has no pictures");
    if (Math.max(width, height) > WIDEST) throw new Error(`it has ${width}x${height} pixels; the page takes up to ${WIDEST} a side`);
    if (!Number.isFinite(this.video.duration)) await this.seek(1e7); // recordings of a browser do not state their length
    this.duration = this.video.duration;
    if (this.duration > LONGEST) throw new Error(`it lasts ${Math.round(this.duration)} s; the page takes up to ${LONGEST} s`);
    await this.count();
  }

  // Shows the frame at a time, in seconds, and returns when that frame begins.
  async seek(time) {
    const { video } = this;
    const wanted = Math.max(time, 0);
    if (Math.abs(video.currentTime - wanted) < 1e-7 && this.known) return this.shown;
    let frame;
    const presented = new Promise((resolve) => {
      frame = video.requestVideoFrameCallback?.((_, data) => resolve(data.mediaTime));
    });
    const seeked = waitFor(video, "seeked");
    video.currentTime = wanted;
    await seeked;
    const same = new Promise((resolve) => setTimeout(resolve, STILL));
    const at = await Promise.race([presented, same]);
    if (at === undefined && frame !== undefined) video.cancelVideoFrameCallback(frame);
    else if (at !== undefined) this.shown = at;
    this.known = true;
    return this.shown;
  }

  // Shows the last frame. The browser may find out only on the way that a file is longer than it states: one whose
  // first frame comes late, one in pieces, or one that does not say how long its last frame is shown.
  async seekEnd() {
    do {
      this.duration = this.video.duration;
      await this.seek(this.duration);
    } while (this.video.duration > this.duration);
    return this.shown;
  }

  // Shows the frame that begins nearest to a time, as in Python, of a file whose frames come at a variable rate.
  async seekNearest(time) {
    const near = 0.5 / TICKS;
    const before = await this.seek(time);
    if (time - before <= near) return;
    let after = await this.seek(2 * time - before);
    if (after <= time) {
      await this.seek(time);
      return;
    }
    // a pause may lie before a row of frames: the first of them is looked for
    for (let low = time; after - low > near; ) {
      const middle = (low + after) / 2;
      const at = await this.seek(middle);
      if (at > time) after = at;
      else low = middle;
    }
    await this.seek(after + 1e-3); // times are rounded
  }

  // Finds the number of frames and their distance, from the times of a few frames.
  async count() {
    if (!this.video.requestVideoFrameCallback) {
      Object.assign(this, { first: 0, frames: Math.max(Math.round(this.duration * TICKS), 1), step: 1 / TICKS });
      return;
    }
    this.first = await this.seek(0);
    const last = await this.seekEnd();
    let at = this.first;
    for (let ahead = 1 / 240; at <= this.first && this.first + ahead < this.duration; ahead *= 2) {
      at = await this.seek(this.first + ahead);
    }
    if (at <= this.first || last <= this.first) {
      Object.assign(this, { frames: 1, step: Math.max(this.duration, 1e-3) });
      return;
    }
    // Times are rounded, in WebM to milliseconds: frames further away give the distance more precisely.
    let step = at - this.first;
    let steady = true;
    for (let number = 4; this.first + (number + 0.5) * step < last; number *= 4) {
      at = await this.seek(this.first + (number + 0.5) * step);
      const passed = Math.round((at - this.first) / step);
      steady &&= passed === number && Math.abs((at - this.first) / step - passed) < 0.25;
      step = passed ? (at - this.first) / passed : step;
    }
    const passed = Math.round((last - this.first) / step);
    steady &&= Math.abs((last - this.first) / step - passed) < 0.25;
    if (steady) Object.assign(this, { frames: passed + 1, step: (last - this.first) / passed });
    else Object.assign(this, { frames: Math.round((last - this.first) * TICKS) + 1, step: 1 / TICKS, variable: true });
  }

  // Returns `count` pictures, one of each equal part of the video, with their times in seconds.
  segments(count) {
    return this.named(this.read(count));
  }

  async read(count) {
    const canvas = document.createElement("canvas");
    canvas.width = this.video.videoWidth;
    canvas.height = this.video.videoHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const pictures = [];
    const times = [];
    for (const index of segmentIndices(this.frames, count)) {
      if (this.variable) await this.seekNearest(this.first + index * this.step);
      else await this.seek(this.first + (index + 0.5) * this.step);
      context.drawImage(this.video, 0, 0);
      pictures.push(context.getImageData(0, 0, canvas.width, canvas.height));
      times.push(index * this.step);
    }
    return { pictures, times };
  }
}

// A camera, of which the latest frames are kept.
export class Camera {
  static async open(video, width = 320) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("The camera needs a page from https:// or from this machine (http://localhost).");
    }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { width: { ideal: width } } });
      video.srcObject = stream;
      await video.play();
      return new Camera(video, stream);
    } catch (error) {
      const why = {
        NotAllowedError: "it was not allowed; allow it in the browser's address bar",
        NotFoundError: "there is none",
        NotReadableError: "another program uses it",
      };
      throw new Error(`The camera cannot be used: ${why[error.name] ?? error.message}.`);
    }
  }

  constructor(video, stream) {
    Object.assign(this, { video, stream, canvas: document.createElement("canvas") });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  // Returns the picture that is shown now.
  picture() {
    this.canvas.width = this.video.videoWidth;
    this.canvas.height = this.video.videoHeight;
    this.context.drawImage(this.video, 0, 0);
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  close() {
    this.stream.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}
