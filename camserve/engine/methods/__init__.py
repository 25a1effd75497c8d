"""The attribution methods: pure functions from activations, gradients and scores to signed maps.

gradient      gradcam, gradcam++, hirescam, xgradcam, layercam
eigen         eigencam, eigengradcam
perturbation  scorecam, ablationcam
guided        guided-gradcam
finer         finercam, which is gradcam of another score
"""
