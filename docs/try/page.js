// The page: where frames come from, and what is shown.

import { Model, NotBuilt, RUNTIMES, readConfiguration } from "./model.js";
import { followingScene, motionScene, Random } from "./shapes.js";
import { Camera, VideoFile } from "./video.js";

const RATE = 10; // frames per second of moving shapes, of the camera and of dragging
const WINDOW = 16; // frames that are looked at: those of a generated clip
const HOP = 4; // frames between two labels of a stream

const root = document.getElementById("vov3d-try");
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const canvas = part("canvas");
const screen = canvas.getContext("2d");
const camera = part("camera-video");

let model;
let activity; // what is running

// Ends what is running and returns the next: `live` until it is ended, which calls the functions in `after`.
function begin() {
  if (activity) {
    activity.live = false;
    activity.after.forEach((call) => call());
  }
  clear();
  activity = { live: true, after: [] };
  return activity;
}

function say(text, error = false) {
  const status = part("status");
  status.textContent = text;
  status.classList.toggle("try-error", error);
}

function fail(error) {
  console.error(error);
  say(error.message || String(error), true);
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function show({ scores, milliseconds }, crops, extra = "") {
  const { size } = model.configuration;
  part("labels").replaceChildren(
    ...model.best(scores).map(({ label, score }) => {
      const row = document.createElement("div");
      row.className = "try-bar";
      const name = row.appendChild(document.createElement("span"));
      name.textContent = label;
      row.appendChild(document.createElement("b")).textContent = `${(100 * score).toFixed(1)}%`;
      const bar = row.appendChild(document.createElement("meter"));
      Object.assign(bar, { max: 1, value: score });
      bar.setAttribute("aria-label", label);
      return row;
    }),
  );
  part("frames").replaceChildren(
    ...crops.map((crop) => {
      const small = document.createElement("canvas");
      small.width = small.height = size;
      const picture = new ImageData(size, size);
      for (let i = 0; i < size * size; i++) {
        picture.data.set(crop.subarray(3 * i, 3 * i + 3), 4 * i);
        picture.data[4 * i + 3] = 255;
      }
      small.getContext("2d").putImageData(picture, 0, 0);
      return small;
    }),
  );
  part("time").textContent = `${milliseconds.toFixed(0)} ms in the network, ${RUNTIMES[model.runtime].title}`;
  say(extra);
  root.dataset.label = model.best(scores, 1)[0].label;
}

function clear() {
  for (const name of ["labels", "frames"]) part(name).replaceChildren();
  part("time").textContent = "";
  delete root.dataset.label;
}

// Calls a function `RATE` times a second until the activity ends, which an error does.
function repeat(running, call) {
  const timer = setInterval(async () => {
    try {
      await call();
    } catch (error) {
      clearInterval(timer);
      if (running.live) fail(error);
    }
  }, 1000 / RATE);
  running.after.push(() => clearInterval(timer));
}

// Labels the latest frames again and again; `next` gives the next picture.
function follow(running, next) {
  const crops = [];
  let count = 0;
  let busy = false;
  repeat(running, async () => {
    crops.push(model.see(next()));
    if (crops.length > WINDOW) crops.shift();
    count += 1;
    if (crops.length < WINDOW || count % HOP || busy) return;
    busy = true;
    const seen = model.pick(crops);
    const answer = await model.classify(seen);
    busy = false;
    if (running.live) show(answer, seen, "The labels of the last 1.6 seconds.");
  });
}

function paint(picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  screen.putImageData(new ImageData(picture.data, picture.width, picture.height), 0, 0);
}

// --- moving shapes ---------------------------------------------------------------------------------------------------

function playShapes() {
  const running = begin();
  const { labels } = model.configuration;
  const chosen = part("motion").value;
  const rng = new Random(Math.floor(Math.random() * 2 ** 32));
  const label = chosen === "random" ? rng.integer(labels.length) : Number(chosen);
  const scene = motionScene(label, rng, WINDOW, model.configuration.size);
  const pictures = [];
  let shown = 0;
  say("Drawing …");
  repeat(running, async () => {
    if (pictures.length < WINDOW) pictures.push(scene.draw(pictures.length));
    paint(pictures[shown % WINDOW]);
    shown += 1;
    if (shown !== WINDOW) return;
    const seen = model.pick(pictures.map((picture) => model.see(picture)));
    const answer = await model.classify(seen);
    if (!running.live) return;
    const right = model.best(answer.scores, 1)[0].index === label;
    show(answer, seen, `${right ? "Right" : "Wrong"}: it was drawn as "${labels[label]}".`);
  });
}

function dragShape() {
  const running = begin();
  const rng = new Random(Math.floor(Math.random() * 2 ** 32));
  let place = [0, 0];
  let drawn = 0;
  const scene = followingScene(rng, () => place, model.configuration.size);
  canvas.onpointermove = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const side = Math.min(box.width, box.height); // the picture is square, in the middle of the canvas
    place = [(2 * (clientX - box.left) - box.width) / side, (2 * (clientY - box.top) - box.height) / side];
  };
  running.after.push(() => (canvas.onpointermove = null));
  say("Move the pointer or a finger over the picture: left, right, up, down, in circles …");
  follow(running, () => {
    const picture = scene.draw(drawn++);
    paint(picture);
    return picture;
  });
}

function startShapes() {
  if (part("motion").value === "drag") dragShape();
  else playShapes();
}

// --- a video ---------------------------------------------------------------------------------------------------------

async function labelFile(file) {
  const running = begin();
  say(`Reading ${file.name} …`);
  let opened;
  try {
    opened = await VideoFile.open(file);
    const { pictures } = await opened.segments(model.configuration.frames);
    const crops = pictures.map((picture) => model.see(picture));
    const answer = await model.classify(crops);
    if (!running.live) return;
    paint(pictures[Math.floor(pictures.length / 2)]);
    show(answer, crops, `${file.name}: ${opened.frames} frames, ${opened.duration.toFixed(1)} s`);
  } catch (error) {
    if (running.live) fail(error);
  } finally {
    opened?.close();
  }
}

// --- the camera ------------------------------------------------------------------------------------------------------

async function watchCamera() {
  const running = begin();
  say("Waiting for the camera …");
  try {
    const opened = await Camera.open(camera);
    const showing = (on) => {
      camera.hidden = !on;
      canvas.hidden = on;
    };
    showing(true);
    running.after.push(() => {
      opened.close();
      showing(false);
    });
    if (running.live) follow(running, () => opened.picture());
    else running.after.at(-1)();
  } catch (error) {
    if (running.live) fail(error);
  }
}

// --- start -----------------------------------------------------------------------------------------------------------

async function choose(runtime) {
  begin();
  say("Loading the runtime and the model …");
  const before = model;
  model = await Model.load(await readConfiguration(), runtime);
  before?.close();
}

function select(name) {
  begin();
  for (const button of root.querySelectorAll("[data-input]")) {
    button.setAttribute("aria-pressed", String(button.dataset.input === name));
  }
  for (const panel of root.querySelectorAll("[data-panel]")) panel.hidden = panel.dataset.panel !== name;
  if (name === "shapes") startShapes();
  else if (name === "camera") watchCamera();
  else say("Choose a video, or drop one anywhere in this box.");
}

function listen() {
  for (const button of root.querySelectorAll("[data-input]")) {
    button.addEventListener("click", () => select(button.dataset.input));
  }
  part("again").addEventListener("click", startShapes);
  part("motion").addEventListener("change", startShapes);
  part("file").addEventListener("change", (event) => event.target.files[0] && labelFile(event.target.files[0]));
  part("runtime").addEventListener("change", async (event) => {
    try {
      await choose(event.target.value);
      say("");
      select(root.querySelector('[aria-pressed="true"]').dataset.input);
    } catch (error) {
      fail(new Error(`${RUNTIMES[event.target.value].title} cannot be used: ${error.message}`));
      event.target.value = model.runtime;
    }
  });
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (!file) return;
    select("file");
    labelFile(file);
  });
  // a page that nobody sees draws nothing and uses no camera; a file that is being read is read to its end
  document.addEventListener("visibilitychange", () => document.hidden && activity.after.length && begin());
}

async function start() {
  try {
    const configuration = await readConfiguration();
    const motions = part("motion");
    configuration.labels.forEach((label, index) => motions.add(new Option(label, String(index))));
    for (const [name, { title, usable }] of Object.entries(RUNTIMES)) {
      if (await usable().catch(() => false)) part("runtime").add(new Option(title, name));
    }
    await choose("wasm");
    listen();
    root.classList.add("try-ready");
    select("shapes");
  } catch (error) {
    if (error instanceof NotBuilt) {
      part("unbuilt").hidden = false;
      say(error.message, true);
    } else {
      fail(error);
    }
  }
}

start();
// for the tests
Object.assign(root, { tryModel: () => model, tryModules: { motionScene, Random, VideoFile } });
