// Learn five stripe patterns from one image each, and name five others.
//
//   npm install onnxruntime-node        (or onnxruntime-web: change the import)
//   node learn.mjs learns.onnx
import * as ort from 'onnxruntime-node'
import { readFile } from 'node:fs/promises'

const session = await ort.InferenceSession.create(await readFile(process.argv[2]))
const [, channels, height, width] = session.inputMetadata[0].shape
const ways = session.outputMetadata[0].shape[1]

// Images of all classes, their stripes moved by so many pixels; numbers in 0..1.
function stripes(shift) {
  const x = new Float32Array(ways * channels * height * width)
  for (let n = 0, k = 0; k < ways; k++)
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < height; i++)
        for (let j = 0; j < width; j++)
          x[n++] = Math.floor((i * (k + 1) + (j + shift) * (ways - k)) / 8) % 2
  return new ort.Tensor('float32', x, [ways, channels, height, width])
}

const labels = BigInt64Array.from({ length: ways }, (_, k) => BigInt(k))
const { logits } = await session.run({
  support_x: stripes(0),
  support_y: new ort.Tensor('int64', labels, [ways]),
  query_x: stripes(1)
})
for (let q = 0; q < ways; q++) {
  const row = [...logits.data.slice(q * ways, (q + 1) * ways)]
  console.log(row.indexOf(Math.max(...row)), row.map((value) => value.toFixed(3)).join(' '))
}
