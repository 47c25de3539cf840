// Lets search work in pages opened from a folder, where browsers refuse to start workers: the worker's script runs in a
// hidden frame instead. The file's name keeps the plugin `offline` from loading a script from another host for this.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      this.inside = inside;

      // what the script expects of a worker: postMessage, importScripts, and messages as events
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...sources) => sources.reduce((before, source) => before.then(() => load(source)), Promise.resolve());
      inside.IFrameWorker = window.Worker;
      const address = new URL(url, location.href);
      this.ready = load(address);

      function load(source) {
        return new Promise((resolve, reject) => {
          const script = inside.document.createElement("script");
          script.src = new URL(source, address);
          script.onload = resolve;
          script.onerror = () => reject(new Error(`${source} was not loaded`));
          inside.document.body.append(script);
        });
      }
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
