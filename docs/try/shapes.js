// Draws moving shapes, as vov3d.synthetic.moving_shapes does in Python, for a canvas. Places are measured from the
// centre of the picture, in halves of its side.

const TEXELS = 24;
const ANGLES = 256;
const HAND = [235, 200, 175];
const TAU = 2 * Math.PI;

// Random numbers that a seed repeats (mulberry32).
export class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  next() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  uniform(low = 0, high = 1) {
    return low + (high - low) * this.next();
  }

  // Near to normal: twelve uniform numbers add up to one of variance 1.
  normal() {
    let sum = -6;
    for (let i = 0; i < 12; i++) sum += this.next();
    return sum;
  }

  integer(end) {
    return Math.floor(this.next() * end);
  }
}

// --- appearance ------------------------------------------------------------------------------------------------------

export function makeShape(rng) {
  const outline = new Float64Array(ANGLES).fill(1);
  for (const [harmonic, most] of [[1, 0.12], [2, 0.3], [3, 0.25], [5, 0.15]]) {
    const height = rng.uniform(0.3, 1) * most;
    const phase = rng.uniform(0, TAU);
    for (let i = 0; i < ANGLES; i++) outline[i] += height * Math.cos((harmonic * TAU * i) / ANGLES + phase);
  }
  return { outline: outline.map((radius) => Math.max(radius, 0.25)), texture: makeTexture(rng) };
}

function makeTexture(rng) {
  let first;
  let second;
  do {
    first = [0, 0, 0].map(() => rng.uniform(0, 255));
    second = [0, 0, 0].map(() => rng.uniform(0, 255));
  } while (first.reduce((sum, value, i) => sum + Math.abs(value - second[i]), 0) <= 180);
  const kx = rng.uniform(2, 7) * (rng.next() < 0.5 ? 1 : -1);
  const ky = rng.uniform(2, 7) * (rng.next() < 0.5 ? 1 : -1);
  const phase = rng.uniform(0, TAU);
  const checked = rng.next() < 0.5;
  const edge = rng.uniform(-0.4, 0.4);
  return Array.from({ length: TEXELS * TEXELS }, (_, i) => {
    const u = (2 * Math.floor(i / TEXELS)) / (TEXELS - 1) - 1;
    const v = (2 * (i % TEXELS)) / (TEXELS - 1) - 1;
    const wave = Math.sin(kx * u + ky * v + phase) * (checked ? Math.sin(kx * v - ky * u) : 1);
    return wave > edge ? first : second;
  });
}

function makeHand() {
  const outline = Float64Array.from({ length: ANGLES }, (_, i) => 1 + 0.3 * Math.cos((2 * TAU * i) / ANGLES));
  return { outline, texture: Array(TEXELS * TEXELS).fill(HAND) };
}

// Returns a function that gives a colour by place and frame: a drifting texture of a few waves.
export function makeBackground(rng) {
  const velocity = [rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)];
  const base = [0, 0, 0].map(() => rng.uniform(40, 215));
  const waves = [0, 1, 2].map(() => ({
    kx: rng.uniform(-9, 9),
    ky: rng.uniform(-9, 9),
    phase: rng.uniform(0, TAU),
    colour: [0, 0, 0].map(() => rng.uniform(-28, 28)),
  }));
  return (x, y, t, colour) => {
    colour.set(base);
    for (const { kx, ky, phase, colour: height } of waves) {
      const wave = Math.sin(ky * (y + velocity[0] * t) + phase + kx * (x + velocity[1] * t));
      for (let c = 0; c < 3; c++) colour[c] += wave * height[c];
    }
  };
}

// --- places over time ------------------------------------------------------------------------------------------------

// A shape with a function for each of its properties: frame number to value.
export function still(rng, size = rng.uniform(0.2, 0.34), reach = 0.6) {
  const x = rng.uniform(-reach, reach);
  const y = rng.uniform(-reach, reach);
  const angle = rng.uniform(0, TAU);
  return { shape: makeShape(rng), x: () => x, y: () => y, size: () => size, angle: () => angle, alpha: () => 1, depth: () => 0 };
}

function reversed(track, frames) {
  const names = ["x", "y", "size", "angle", "alpha", "depth"];
  return { ...track, ...Object.fromEntries(names.map((name) => [name, (t) => track[name](frames - 1 - t)])) };
}

// A path from 0 to 1, slower or faster in the middle.
function progress(rng, frames) {
  const bend = rng.uniform(-0.6, 0.6) / TAU;
  return (t) => t / (frames - 1) + bend * Math.sin((TAU * t) / (frames - 1));
}

function translating(rng, frames, axis) {
  for (;;) {
    const track = still(rng);
    const size = track.size(0);
    const period = 2 + 2 * 1.6 * size;
    const start = rng.uniform(0, period);
    const reach = rng.uniform(0.7, 1.7);
    const path = progress(rng, frames);
    const place = (t) => ((((start - reach * path(t)) % period) + period) % period) - period / 2;
    const inside = Array.from({ length: frames }, (_, t) => Math.abs(place(t)) < 1 + 0.4 * size);
    if (inside.filter(Boolean).length >= frames / 2) return [{ ...track, [axis]: place }];
  }
}

function towards(rng, frames) {
  const growth = rng.uniform(0.6, 1.2);
  const path = progress(rng, frames);
  const size = rng.uniform(0.24, 0.42);
  return [{ ...still(rng, undefined, 0.4), size: (t) => size * Math.exp(growth * (path(t) - 0.5)) }];
}

function turning(rng, frames) {
  const track = still(rng, rng.uniform(0.3, 0.5), 0.4);
  const turn = rng.uniform(1.2, 4);
  const path = progress(rng, frames);
  const start = track.angle(0);
  return [{ ...track, angle: (t) => start + turn * path(t) }];
}

function closer(rng, frames) {
  const far = rng.uniform(0.5, 0.75);
  const reach = rng.uniform(0.25, 0.45);
  const path = progress(rng, frames);
  const place = (t) => far - reach * (path(t) - 0.5);
  const [x, y, angle] = [rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0, TAU)];
  return [-1, 1].map((side) => ({
    ...still(rng, rng.uniform(0.18, 0.26)),
    x: (t) => x + side * place(t) * Math.cos(angle),
    y: (t) => y + side * place(t) * Math.sin(angle),
  }));
}

function appearing(rng, frames) {
  const low = rng.uniform(0, 0.4);
  const high = rng.uniform(0.6, 1);
  const path = progress(rng, frames);
  return [{ ...still(rng), alpha: (t) => low + (high - low) * path(t) }];
}

function passing(rng, frames) {
  const centre = still(rng, rng.uniform(0.24, 0.34), 0.25);
  const start = rng.uniform(0, TAU);
  const turn = rng.uniform(3.5, 7);
  const path = progress(rng, frames);
  const phase = (t) => start + turn * path(t);
  const reach = rng.uniform(0.45, 0.65);
  const y = centre.y(0) + rng.uniform(-0.1, 0.1);
  const size = rng.uniform(0.18, 0.24);
  const around = {
    ...still(rng),
    x: (t) => centre.x(t) + reach * Math.cos(phase(t)),
    y: () => y,
    size: (t) => size * (1 + 0.15 * Math.sin(phase(t))),
    depth: (t) => Math.sin(phase(t)),
  };
  return [centre, around];
}

function circling(rng, frames) {
  const track = still(rng, undefined, 0.25);
  const start = rng.uniform(0, TAU);
  const turn = rng.uniform(2.5, 6.3);
  const path = progress(rng, frames);
  const radius = rng.uniform(0.35, 0.6);
  const [x, y] = [track.x(0), track.y(0)];
  return [
    {
      ...track,
      x: (t) => x + radius * Math.cos(start + turn * path(t)),
      y: (t) => y + radius * Math.sin(start + turn * path(t)),
    },
  ];
}

function bouncing(rng, frames, cycles = 1) {
  const start = rng.uniform(0, TAU);
  const reach = rng.uniform(0.4, 0.6);
  const middle = rng.uniform(-0.2, 0.2);
  return [{ ...still(rng), y: (t) => reach * Math.cos(start + (TAU * cycles * t) / frames) + middle }];
}

function pushing(rng, frames) {
  const size = rng.uniform(0.2, 0.28);
  const reach = rng.uniform(0.5, 0.9);
  const start = rng.uniform(-0.15, 0.15);
  const path = progress(rng, frames);
  const place = (t) => start + reach * (path(t) - 0.5);
  const angle = rng.uniform(0, TAU);
  const across = rng.uniform(-0.3, 0.3);
  const gap = 0.5 * (size + 0.22);
  const moved = (track, offset) => ({
    ...track,
    x: (t) => (place(t) + offset) * Math.cos(angle) - across * Math.sin(angle),
    y: (t) => (place(t) + offset) * Math.sin(angle) + across * Math.cos(angle),
  });
  const hand = { ...moved(still(rng, 0.22), -gap), shape: makeHand(), angle: () => angle };
  return [moved(still(rng, size), gap), hand];
}

const MOTIONS = [
  (rng, frames) => translating(rng, frames, "x"),
  (rng, frames) => translating(rng, frames, "y"),
  towards,
  turning,
  closer,
  appearing,
  passing,
  circling,
  bouncing,
  pushing,
];
const BOUNCING = 8;

function bystander(rng, frames) {
  const track = still(rng, rng.uniform(0.1, 0.16), 0.9);
  const [dx, dy] = [rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)];
  const [x, y] = [track.x(0), track.y(0)];
  const part = (t) => t / (frames - 1) - 0.5;
  return { ...track, x: (t) => x + dx * part(t), y: (t) => y + dy * part(t) };
}

function tracksOf(label, rng, frames) {
  const second = label % 2 === 1;
  const pair = (label - (label % 2)) / 2;
  let tracks;
  if (pair === BOUNCING) {
    const fast = [3, 5, 7, 11, 13].find((cycles) => frames % cycles);
    tracks = bouncing(rng, frames, second ? fast : 1);
  } else {
    tracks = MOTIONS[pair](rng, frames);
    if (second) tracks = tracks.map((track) => reversed(track, frames));
  }
  return [...Array.from({ length: rng.integer(3) }, () => bystander(rng, frames)), ...tracks];
}

// --- drawing ---------------------------------------------------------------------------------------------------------

// A scene that is drawn frame by frame: shapes on a background, seen by a shaking camera.
export class Scene {
  constructor(tracks, rng, size) {
    Object.assign(this, { tracks, rng, size, background: makeBackground(rng) });
    this.unsteady = rng.uniform(0, 0.02);
    this.blur = rng.uniform(0, 0.5);
    this.noise = rng.uniform(2, 10);
    this.steps = [this.step(), this.step()];
  }

  step() {
    return [this.rng.normal() * this.unsteady, this.rng.normal() * this.unsteady];
  }

  // Returns frame `t` as a picture: {data, width, height}, RGBA.
  draw(t) {
    const { size } = this;
    this.steps = [...this.steps, this.step()].slice(-3);
    const shake = [0, 1].map((i) => this.steps.reduce((sum, step) => sum + step[i], 0) / 3);
    const values = new Float32Array(size * size * 3);
    const colour = new Float32Array(3);
    for (let i = 0; i < size * size; i++) {
      this.background((2 * (i % size)) / (size - 1) - 1, (2 * Math.floor(i / size)) / (size - 1) - 1, t, colour);
      values.set(colour, 3 * i);
    }
    for (const front of [false, true]) {
      for (const track of this.tracks) if (track.depth(t) > 0 === front) this.drawTrack(values, track, t, shake);
    }
    return this.filmed(values);
  }

  drawTrack(values, track, t, shake) {
    const { size } = this;
    const radius = track.size(t);
    const turn = track.angle(t);
    const [cos, sin] = [Math.cos(turn) / (1.9 * radius), Math.sin(turn) / (1.9 * radius)];
    for (let i = 0; i < size * size; i++) {
      const x = (2 * (i % size)) / (size - 1) - 1 - track.x(t) - shake[1];
      const y = (2 * Math.floor(i / size)) / (size - 1) - 1 - track.y(t) - shake[0];
      const distance = Math.hypot(x, y);
      if (distance > 2 * radius + 2 / size) continue;
      const bearing = Math.trunc((Math.atan2(y, x) - turn) * (ANGLES / TAU)) % ANGLES;
      const outline = track.shape.outline[(bearing + ANGLES) % ANGLES];
      const edge = (outline * radius - distance) * (size / 2) + 0.5;
      const alpha = Math.min(Math.max(edge, 0), 1) * track.alpha(t);
      if (!alpha) continue;
      const u = Math.min(Math.max(Math.trunc((cos * x + sin * y + 0.5) * TEXELS), 0), TEXELS - 1);
      const v = Math.min(Math.max(Math.trunc((cos * y - sin * x + 0.5) * TEXELS), 0), TEXELS - 1);
      const texel = track.shape.texture[u * TEXELS + v];
      for (let c = 0; c < 3; c++) values[3 * i + c] += alpha * (texel[c] - values[3 * i + c]);
    }
  }

  // A little blurred, with noise, as bytes.
  filmed(values) {
    const { size, blur, noise } = this;
    const data = new Uint8ClampedArray(size * size * 4).fill(255);
    const at = (x, y, c) => values[3 * (Math.min(Math.max(y, 0), size - 1) * size + Math.min(Math.max(x, 0), size - 1)) + c];
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        for (let c = 0; c < 3; c++) {
          const around = at(x - 1, y, c) + at(x + 1, y, c) + at(x, y - 1, c) + at(x, y + 1, c);
          const value = (1 - blur) * at(x, y, c) + (blur / 4) * around + noise * this.rng.normal();
          data[4 * (y * size + x) + c] = Math.min(Math.max(value, 0), 255);
        }
      }
    }
    return { data, width: size, height: size };
  }
}

// Returns the scene of a motion, by its class from 0 to 19, for `frames` frames.
export function motionScene(label, rng, frames = 16, size = 64) {
  return new Scene(tracksOf(label, rng, frames), rng, size);
}

// Returns a scene with one shape that follows `place`, a function that gives x and y.
export function followingScene(rng, place, size = 64) {
  const track = { ...still(rng, 0.3), x: () => place()[0], y: () => place()[1] };
  return new Scene([track], rng, size);
}
