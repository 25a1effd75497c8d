"""From a signed feature-resolution map to what people look at. NumPy and Pillow, nothing else.

resample     separable N-D resizing: nearest, linear, bicubic
sampler      carries a map over to another grid
conventions  ReLU, up-sampling, fusion and normalisation as each library does them
geometry     upload to model input and back: EXIF orientation, resize, crop, padding
scaling      maps to [0, 1] for pictures
colormaps    numbers to colours
overlay      colours or contour lines over the photograph
encode       PNG, JPEG, WebP and .npy bytes
"""
