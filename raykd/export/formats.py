"""The formats by the name that --format takes."""

from raykd.export.form import Form
from raykd.export.onnx_form import Onnx
from raykd.export.safetensors_form import Safetensors
from raykd.export.timm_form import TimmFolder
from raykd.export.torch_export_form import TorchExport

FORMATS: dict[str, Form] = {form.name: form for form in (Safetensors(), Onnx(), TorchExport(), TimmFolder())}
