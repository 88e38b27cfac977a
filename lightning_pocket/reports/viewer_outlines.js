// Outlines of the classes of a slice, along the sides of its voxels.
globalThis.pocketOutlines = (() => {
  "use strict";
  const ways = [["L", "R"], ["P", "A"], ["I", "S"]]; // where the axes of the voxels begin and end
  const axesOf = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // axial, coronal, sagittal: across, up, depth

  // Returns the classes of slice `index` at right angles to an axis, first axis fastest.
  function cut(label, shape, axes, index) {
    const [u, v, d] = axes;
    const stride = [1, shape[0], shape[0] * shape[1]];
    const width = shape[u], height = shape[v], slice = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      let from = index * stride[d] + y * stride[v];
      for (let x = 0; x < width; x++, from += stride[u]) slice[x + y * width] = label[from];
    }
    return slice;
  }

  // Returns the directed sides between a class and anything else, by the corner where they begin.
  function sides(slice, width, height, k) {
    const next = new Map();
    const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && slice[x + y * width] === k;
    const add = (x0, y0, x1, y1) => {
      const corner = x0 + y0 * (width + 1);
      if (!next.has(corner)) next.set(corner, []);
      next.get(corner).push(x1 + y1 * (width + 1));
    };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (slice[x + y * width] !== k) continue;
        if (!is(x, y - 1)) add(x, y, x + 1, y);
        if (!is(x + 1, y)) add(x + 1, y, x + 1, y + 1);
        if (!is(x, y + 1)) add(x + 1, y + 1, x, y + 1);
        if (!is(x - 1, y)) add(x, y + 1, x, y);
      }
    }
    return next;
  }

  // Returns closed lines as one path, in voxels counted from the outer side of the first: long ones, so they can be dashed.
  function outline(slice, width, height, k) {
    const next = sides(slice, width, height, k), path = new Path2D();
    for (const start of next.keys()) {
      while (next.get(start).length) {
        let corner = start, first = true;
        do {
          const x = corner % (width + 1), y = Math.floor(corner / (width + 1));
          if (first) path.moveTo(x, y); else path.lineTo(x, y);
          first = false;
          corner = next.get(corner).pop();
        } while (corner !== start);
        path.closePath();
      }
    }
    return path;
  }

  // Returns how voxels of a tile of the planes become pixels of the canvas.
  function placement(nv, number, axes, shape) {
    const tile = nv.screenSlices[number];
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const points = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]].map(([x, y]) => [left + x * width, top + y * height]);
    const voxels = points.map(([x, y]) => {
      const at = nv.screenXY2TextureFrac(x, y, number, false);
      return [at[axes[0]] * shape[axes[0]], at[axes[1]] * shape[axes[1]]];
    });
    const side = (to, from) => [to[0] - from[0], to[1] - from[1]];
    const to = (p) => new DOMMatrix([...side(p[1], p[0]), ...side(p[2], p[0]), ...p[0]]);
    return { matrix: to(points).multiply(to(voxels).inverse()), box: [left, top, width, height] };
  }

  // Draws label maps over all planes. Each layer: label, whether it is filled, whether its line is dashed.
  function draw(canvas, nv, shape, layers, colours, opacity) {
    const context = canvas.getContext("2d");
    canvas.width = nv.gl.canvas.width;
    canvas.height = nv.gl.canvas.height;
    const scale = Math.max(1, canvas.width / Math.max(1, canvas.clientWidth));
    nv.screenSlices.forEach((tile, number) => {
      if (tile.axCorSag > 2 || !Number.isFinite(tile.sliceFrac)) return;
      const axes = axesOf[tile.axCorSag], depth = shape[axes[2]];
      const index = Math.min(depth - 1, Math.max(0, Math.floor(tile.sliceFrac * depth)));
      const { matrix, box } = placement(nv, number, axes, shape);
      context.save();
      context.beginPath();
      context.rect(...box);
      context.clip();
      for (const layer of layers) {
        const slice = cut(layer.label, shape, axes, index);
        colours.forEach((colour, k) => {
          if (!colour || !slice.includes(k)) return;
          const path = new Path2D();
          path.addPath(outline(slice, shape[axes[0]], shape[axes[1]], k), matrix);
          stroke(context, path, layer, colour, opacity, scale);
        });
      }
      letter(context, matrix, box, axes, scale);
      context.restore();
    });
  }

  // Writes where the patient's sides are, as the placement of the voxels says.
  function letter(context, matrix, [left, top, width, height], axes, scale) {
    const across = matrix.a > 0 ? ways[axes[0]] : [...ways[axes[0]]].reverse();
    const down = matrix.d > 0 ? ways[axes[1]] : [...ways[axes[1]]].reverse();
    const write = (text, x, y, align, baseline) => {
      Object.assign(context, { textAlign: align, textBaseline: baseline });
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    const gap = 5 * scale;
    Object.assign(context, {
      font: `600 ${15 * scale}px system-ui, sans-serif`, fillStyle: "#fff", strokeStyle: "#000", lineWidth: 3 * scale, lineJoin: "round",
    });
    write(across[0], left + gap, top + height / 2, "left", "middle");
    write(across[1], left + width - gap, top + height / 2, "right", "middle");
    write(down[0], left + width / 2, top + gap, "center", "top");
    write(down[1], left + width / 2, top + height - gap, "center", "bottom");
  }

  function stroke(context, path, layer, colour, opacity, scale) {
    context.strokeStyle = context.fillStyle = colour;
    if (layer.filled) {
      context.globalAlpha = 0.45 * opacity;
      context.fill(path, "evenodd");
    }
    context.globalAlpha = opacity;
    if (layer.dashed) { // dark gaps show on an outline of the same colour too
      context.strokeStyle = "#000";
      context.lineWidth = 3 * scale;
      context.stroke(path);
      context.strokeStyle = colour;
      context.setLineDash([5 * scale, 4 * scale]);
    }
    context.lineWidth = (layer.dashed ? 2.5 : 1.5) * scale;
    context.stroke(path);
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  return { draw, outline, cut };
})();
