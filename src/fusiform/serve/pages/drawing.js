// What was found, drawn over the photo. All coordinates are those of the photo; y points down.

const INK = { box: "#ffc400", points: "#00ff8c", axes: ["#eb463c", "#46c850", "#5082ff"] };
const DOWN = Math.PI / 180;

/** The three axes of a head in the picture: to the person's left, up, and out of the face, as [x, y] with y down. */
export function axes({ yaw, pitch, roll }) {
  const [y, p, r] = [yaw * DOWN, -pitch * DOWN, -roll * DOWN];
  const [cy, sy, cp, sp, cr, sr] = [Math.cos(y), Math.sin(y), Math.cos(p), Math.sin(p), Math.cos(r), Math.sin(r)];
  // columns of Ry(yaw) Rx(-pitch) Rz(-roll), x right, y up, z to the viewer
  const columns = [
    [cy * cr + sy * sp * sr, cp * sr],
    [-cy * sr + sy * sp * cr, cp * cr],
    [sy * cp, -sp],
  ];
  return columns.map(([x, up]) => [x, -up]);
}

/** The pose that a head answered, or null. */
export function poseOf(face) {
  return Object.values(face.answers).find((said) => said.yaw != null && said.pitch != null && said.roll != null) ?? null;
}

/** All points of a face: those of trained heads, else those it was found with. */
export function pointsOf(face) {
  const trained = Object.values(face.answers).filter((said) => Array.isArray(said.xy));
  return (trained.length ? trained : face.found ? [face.found] : []).flatMap((said) => said.xy);
}

function overCrop(context, face, picture) {
  const [[a, b, tx], [c, d, ty]] = face.placement.matrix;
  const det = a * d - b * c;
  context.save();
  // crop to photo: the inverse of the placement
  context.transform(d / det, -c / det, -b / det, a / det, (b * ty - d * tx) / det, (c * tx - a * ty) / det);
  context.drawImage(picture, 0, 0, face.placement.size, face.placement.size);
  context.restore();
}

/**
 * @param canvas what is drawn into
 * @param photo an ImageBitmap, upright
 * @param faces as /v1/analyze gives them, each with `shown`: name -> ImageBitmap
 * @param on set of the layers that are shown
 */
export function draw(canvas, photo, faces, on) {
  const shrink = Math.min(1, 1400 / Math.max(photo.width, photo.height));
  canvas.width = Math.round(photo.width * shrink);
  canvas.height = Math.round(photo.height * shrink);
  const context = canvas.getContext("2d");
  context.scale(shrink, shrink);
  context.drawImage(photo, 0, 0);
  for (const layer of ["attention", "parsing"]) {
    if (!on.has(layer)) continue;
    for (const face of faces) if (face.shown?.[layer]) overCrop(context, face, face.shown[layer]);
  }
  faces.forEach((face, i) => {
    const [x0, y0, x1, y1] = face.box;
    const side = Math.max(x1 - x0, y1 - y0);
    const line = Math.max(1.5 / shrink, side / 110);
    if (on.has("box")) {
      context.lineWidth = line;
      context.strokeStyle = INK.box;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      const size = Math.max(14 / shrink, side / 9);
      context.font = `bold ${size}px system-ui, sans-serif`;
      context.fillStyle = INK.box;
      const wide = context.measureText(String(i + 1)).width + size / 2;
      context.fillRect(x0, y0, wide, size * 1.2);
      context.fillStyle = "#000";
      context.fillText(String(i + 1), x0 + size / 4, y0 + size);
    }
    if (on.has("points")) {
      context.fillStyle = INK.points;
      for (const [x, y] of pointsOf(face)) {
        context.beginPath();
        context.arc(x, y, Math.max(1.5 / shrink, side / 90), 0, 2 * Math.PI);
        context.fill();
      }
    }
    const pose = on.has("pose") ? poseOf(face) : null;
    if (pose) {
      const [cx, cy] = [(x0 + x1) / 2, (y0 + y1) / 2];
      context.lineWidth = 1.6 * line;
      axes(pose).forEach(([dx, dy], axis) => {
        context.strokeStyle = INK.axes[axis];
        context.beginPath();
        context.moveTo(cx, cy);
        context.lineTo(cx + dx * side * 0.55, cy + dy * side * 0.55);
        context.stroke();
      });
    }
  });
}
