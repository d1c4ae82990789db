// The page's `infer`, called by tests/test_hosts.py.
import ort from "onnxruntime-node";
import fs from "node:fs";
import { infer } from "./snippet.mjs";
const [folder, asked] = process.argv.slice(2);
const { plan } = JSON.parse(fs.readFileSync(`${folder}/plan.json`));
const { image, origins, content, side } = JSON.parse(fs.readFileSync(asked));
const [base, incremental] = await Promise.all(
  ["base", "incremental"].map((name) => ort.InferenceSession.create(`${folder}/${name}.onnx`)),
);
const tensor = (numbers, shape) => new ort.Tensor("float32", Float32Array.from(numbers), shape);
const found = await infer(
  ort, base, incremental, plan, tensor(image, [1, ...plan.image.shape]), origins, tensor(content, [1, 3, side, side]),
);
console.log(JSON.stringify(Array.from(found[plan.outputs[0].name].data)));
