"""`krypton-onnx serve`: heatmaps over HTTP, in KServe's protocols. docs/serving.md is its manual.

The protocols are KServe's own SDK, the server is uvicorn. What is here: what a request may ask (`asked`, `images`),
how it is said in each protocol (`v1`, `v2`), who answers it (`explainer`, `work`), and what every request passes first
(`gate`).
"""
