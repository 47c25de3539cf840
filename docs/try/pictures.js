// Turns frames into the network's input, as vov3d.video does in Python: short side resized with a low-pass filter
// and rounded to bytes, the centre cut out, scaled to 0..1, normalised.

// Weights of each output pixel over a line of input pixels: a triangle as wide as the reduction.
function weights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), from);
    const values = [];
    for (let i = start; i < end; i++) values.push(Math.max(1 - Math.abs((i - centre + 0.5) / support), 0));
    const sum = values.reduce((a, b) => a + b, 0);
    return { start, values: values.map((value) => value / sum) };
  });
}

// Height and width with the short side at `size`; the long side is floored.
export function resizedTo(height, width, size) {
  if (Math.min(height, width) === size) return [height, width];
  if (width < height) return [Math.floor((height / width) * size), size];
  return [size, Math.floor((width / height) * size)];
}

// Resizes RGBA bytes to RGB bytes, rows first, as torchvision does.
export function resize(data, height, width, newHeight, newWidth) {
  const across = weights(width, newWidth);
  const rows = new Uint8ClampedArray(height * newWidth * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      const { start, values } = across[x];
      let r = 0;
      let g = 0;
      let b = 0;
      for (let i = 0, at = 4 * (y * width + start); i < values.length; i++, at += 4) {
        r += values[i] * data[at];
        g += values[i] * data[at + 1];
        b += values[i] * data[at + 2];
      }
      const to = 3 * (y * newWidth + x);
      rows[to] = Math.floor(r + 0.5);
      rows[to + 1] = Math.floor(g + 0.5);
      rows[to + 2] = Math.floor(b + 0.5);
    }
  }
  if (height === newHeight) return rows;
  const down = weights(height, newHeight);
  const result = new Uint8ClampedArray(newHeight * newWidth * 3);
  const line = newWidth * 3;
  for (let y = 0; y < newHeight; y++) {
    const { start, values } = down[y];
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[i] * rows[(start + i) * line + x];
      result[y * line + x] = Math.floor(sum + 0.5);
    }
  }
  return result;
}

// Returns the centre crop of a picture ({data, width, height}, RGBA): RGB bytes of size x size pixels.
export function cropped(picture, size) {
  const { data, width, height } = picture;
  const ratio = Math.max(width, height) / Math.min(width, height);
  if (ratio > 64) throw new Error(`The frames have ${width}x${height} pixels: the long side may be 64 times the short one.`);
  const [newHeight, newWidth] = resizedTo(height, width, size);
  const all = resize(data, height, width, newHeight, newWidth);
  const top = Math.ceil((newHeight - size) / 2);
  const left = Math.ceil((newWidth - size) / 2);
  const crop = new Uint8ClampedArray(size * size * 3);
  for (let y = 0; y < size; y++) {
    const from = 3 * ((top + y) * newWidth + left);
    crop.set(all.subarray(from, from + 3 * size), 3 * y * size);
  }
  return crop;
}

// Returns the network's input (1, 3, T, size, size) as float32 from T crops of `cropped`.
export function clipOf(crops, size, mean, std) {
  const pixels = size * size;
  const clip = new Float32Array(3 * crops.length * pixels);
  for (let channel = 0; channel < 3; channel++) {
    crops.forEach((crop, frame) => {
      const to = (channel * crops.length + frame) * pixels;
      for (let i = 0; i < pixels; i++) clip[to + i] = (crop[3 * i + channel] / 255 - mean[channel]) / std[channel];
    });
  }
  return clip;
}

// Rounds half to even, as Python does.
function rounded(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

// Returns the middle frame of each of `count` equal parts of a video of `frames` frames.
export function segmentIndices(frames, count) {
  const size = (frames - 1) / count;
  return Array.from({ length: count }, (_, i) => Math.floor((rounded(size * i) + rounded(size * (i + 1))) / 2));
}
