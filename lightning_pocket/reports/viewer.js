// The volume viewer: image by NiiVue, label maps drawn above it. Nothing is decoded before a reader opens it.
globalThis.pocketVolumes = Object.assign((key, text) => { pocketVolumes.held[key] = text; }, { held: {} });
(() => {
  "use strict";
  const root = document.querySelector(".viewer");
  if (!root) return;
  const find = (name) => root.querySelector(`.viewer-${name}`);
  const cases = JSON.parse(find("cases").textContent);
  const stage = find("stage");
  const sliders = [...root.querySelectorAll(".viewer-slices input")];
  const shown = { number: -1, labels: {}, colours: [] };
  let nv = null, pending = false, request = 0;

  const say = (text) => { find("message").textContent = text; };

  function bytes(text) {
    const binary = atob(text), array = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) array[i] = binary.charCodeAt(i);
    return array;
  }

  async function unpack(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function run(attributes) {
    return new Promise((resolve, reject) => {
      const script = Object.assign(document.createElement("script"), attributes);
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${attributes.src} is missing; it belongs beside this page.`));
      document.head.append(script);
      if (!attributes.src) resolve();
    });
  }

  async function textOf({ key, file }) {
    if (!file) return root.querySelector(`script[data-key="${key}"]`).textContent;
    if (!pocketVolumes.held[key]) await run({ src: file });
    return pocketVolumes.held[key];
  }

  async function open() {
    find("open").disabled = true;
    say("Opening …");
    try {
      if (!document.createElement("canvas").getContext("webgl2")) throw new Error("This browser has no WebGL2");
      if (!globalThis.DecompressionStream) throw new Error("This browser cannot decompress data");
      await run({ textContent: new TextDecoder().decode(await unpack(find("library").textContent)) });
      find("app").hidden = false;
      await start();
      await show(0);
      find("open").hidden = find("stills").hidden = true;
      stage.focus({ preventScroll: true });
    } catch (error) {
      find("app").hidden = true;
      say(`${error.message}: the pictures below are shown instead.`);
    }
  }

  async function start() {
    nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, isForceMouseClickToVoxelCenters: true,
      scrollRequiresFocus: true, dragAndDropEnabled: false, isOrientationTextVisible: false, loadingText: "",
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER, multiplanarPadPixels: 6, logLevel: "warn",
      crosshairColor: [1, 1, 1, 0.5], crosshairWidth: 0.4, crosshairWidthUnit: "percent", crosshairGap: 6,
    });
    const drawScene = nv.drawScene.bind(nv);
    nv.drawScene = (...given) => { // it has no event for "drawn"
      const result = drawScene(...given);
      if (!pending) {
        pending = true;
        requestAnimationFrame(() => { pending = false; overlay(); });
      }
      return result;
    };
    const resize = nv.resizeListener.bind(nv);
    nv.resizeListener = () => {
      if (stage.clientWidth < 64) return; // hidden: there is no room to draw
      fit();
      resize();
    };
    nv.onLocationChange = place;
    nv.onIntensityChange = readWindow;
    await nv.attachToCanvas(find("image"));
    nv.setSliceType(nv.sliceTypeMultiplanar);
  }

  // Makes the planes as high as they need to be: in a row, or on narrow screens in two.
  function fit() {
    if (shown.number < 0) return;
    const { shape, spacing } = cases[shown.number];
    const [x, y, z] = shape.map((size, axis) => size * spacing[axis]);
    const wide = stage.clientWidth > 640;
    const [across, down] = wide ? [2 * x + y, Math.max(y, z)] : [x + y, y + z];
    stage.style.height = `${Math.max(160, Math.min(0.8 * innerHeight, (stage.clientWidth / across) * down + 6))}px`;
    nv.opts.multiplanarLayout = wide ? niivue.MULTIPLANAR_TYPE.ROW : niivue.MULTIPLANAR_TYPE.GRID;
  }

  async function show(number) {
    const mine = ++request, entry = cases[number];
    say(`Loading ${entry.name} …`);
    const image = await niivue.NVImage.loadFromBase64({
      base64: await textOf(entry.parts.image), name: "image.nii.gz", colormap: "gray",
      cal_min: entry.window[0], cal_max: entry.window[1],
    });
    const labels = {};
    for (const part of ["truth", "prediction"]) {
      if (entry.parts[part]) labels[part] = await unpack(await textOf(entry.parts[part]));
    }
    if (mine !== request) return; // another case was asked for meanwhile
    const before = cases[shown.number], stays = before?.parts.image.key === entry.parts.image.key;
    const cross = [...nv.scene.crosshairPos], { cal_min, cal_max } = nv.volumes[0] ?? {};
    while (nv.volumes.length) nv.removeVolumeByIndex(0);
    Object.assign(shown, { number, labels });
    nv.resizeListener();
    nv.addVolume(image);
    describe(entry);
    readWindow();
    if (stays) setWindow([cal_min, cal_max]); // another run: at the same place of the same image
    nv.scene.crosshairPos = stays ? cross : entry.start.map((at, axis) => (at + 0.5) / entry.shape[axis]);
    nv.drawScene();
    place();
    say("");
  }

  function describe(entry) {
    find("case").value = String(shown.number);
    find("caption").textContent = entry.caption;
    for (const part of ["truth", "prediction"]) find(part).disabled = !shown.labels[part];
    sliders.forEach((slider) => { slider.max = entry.shape[slider.dataset.axis]; });
    const legend = entry.classes.map((name, k) => {
      const label = document.createElement("label"), box = document.createElement("input");
      const swatch = Object.assign(document.createElement("span"), { className: "viewer-swatch" });
      Object.assign(box, { type: "checkbox", checked: true });
      swatch.style.background = entry.colours[k];
      box.addEventListener("change", () => {
        shown.colours[k] = box.checked ? entry.colours[k] : null;
        overlay();
      });
      label.append(box, " ", swatch, ` ${name}`);
      return k ? label : ""; // background is not drawn
    });
    shown.colours = entry.colours.map((colour, k) => (k ? colour : null));
    find("classes").replaceChildren(...legend);
  }

  function overlay() {
    if (shown.number < 0 || !nv.volumes.length) return;
    const layers = ["truth", "prediction"].filter((part) => shown.labels[part] && find(part).checked).map((part) => (
      { label: shown.labels[part], filled: part === "truth", dashed: part === "prediction" }));
    pocketOutlines.draw(find("overlay"), nv, cases[shown.number].shape, layers, shown.colours, find("opacity").value / 100);
  }

  function setWindow([low, high]) {
    Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
    nv.updateGLVolume();
    readWindow();
  }

  function readWindow() {
    const volume = nv.volumes[0];
    if (!volume) return;
    find("low").value = Number(volume.cal_min.toPrecision(4));
    find("high").value = Number(volume.cal_max.toPrecision(4));
  }

  function voxel() {
    return cases[shown.number].shape.map((size, axis) => (
      Math.min(size - 1, Math.max(0, Math.floor(nv.scene.crosshairPos[axis] * size)))));
  }

  function place() {
    if (shown.number < 0 || !nv.volumes.length) return;
    const at = voxel(), { shape, classes } = cases[shown.number];
    for (const slider of sliders) {
      const axis = slider.dataset.axis;
      slider.value = at[axis] + 1;
      slider.nextElementSibling.textContent = `${at[axis] + 1} of ${shape[axis]}`;
    }
    const index = at[0] + shape[0] * (at[1] + shape[1] * at[2]);
    const named = Object.entries(shown.labels).map(([part, label]) => `${part}: ${classes[label[index]] ?? "no class"}`);
    const value = nv.volumes[0].getValue(...at);
    find("place").textContent = [`At the cross: intensity ${Number(value.toPrecision(4))}`, ...named].join("; ");
  }

  function go(axis, to) {
    const size = cases[shown.number].shape[axis];
    const position = [...nv.scene.crosshairPos];
    position[axis] = (Math.min(size - 1, Math.max(0, to)) + 0.5) / size;
    nv.scene.crosshairPos = position;
    nv.drawScene();
    place();
  }

  const pick = (number) => show(number).catch((error) => say(error.message));
  const next = () => pick((shown.number + 1) % cases.length);
  const toggle = (part) => { find(part).checked = shown.labels[part] && !find(part).checked; overlay(); };
  const keys = {
    ArrowUp: () => go(2, voxel()[2] + 1), ArrowDown: () => go(2, voxel()[2] - 1),
    ArrowLeft: () => go(0, voxel()[0] + 1), ArrowRight: () => go(0, voxel()[0] - 1), // right is at the left
    PageUp: () => go(1, voxel()[1] + 1), PageDown: () => go(1, voxel()[1] - 1),
    t: () => toggle("truth"), p: () => toggle("prediction"), n: next,
  };

  find("app").addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const inField = event.target.matches("select, input[type=number]") || (event.target.type === "range" && key.length > 1);
    if (inField || !keys[key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // NiiVue has keys of its own
    keys[key]();
  }, true);
  find("case").replaceChildren(...cases.map((entry, number) => new Option(entry.name, number)));
  find("case").addEventListener("change", (event) => pick(Number(event.target.value)));
  find("next").addEventListener("click", next);
  find("next").hidden = cases.length < 2;
  for (const name of ["truth", "prediction"]) find(name).addEventListener("change", overlay);
  find("opacity").addEventListener("input", overlay);
  for (const name of ["low", "high"]) {
    find(name).addEventListener("change", () => {
      const window = [find("low").valueAsNumber, find("high").valueAsNumber];
      if (window[0] < window[1]) setWindow(window); else readWindow();
    });
  }
  find("window").addEventListener("click", () => setWindow(cases[shown.number].window));
  sliders.forEach((slider) => slider.addEventListener("input", () => go(Number(slider.dataset.axis), slider.value - 1)));
  find("open").addEventListener("click", open);
  find("open").hidden = false;
})();
