"""A trained policy as an artefact: policy folders and ONNX export."""
