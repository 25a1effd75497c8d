"""The protocols of other model servers, translated into our requests and back.

KServe V1 (`v1_*`) and the Open Inference Protocol V2 (`v2_*`). Both make an `ExplanationRequest`
and uploads of what they get, so that there is one way to the queue.
"""
