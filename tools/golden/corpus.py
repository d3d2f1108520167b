# SPDX-License-Identifier: MIT
"""A small text written for this project; the test tokenizers are trained on it."""

TEXT = """
USER: What is in the picture? ASSISTANT: The picture shows a small dog on a red chair.
USER: What is this? ASSISTANT: This is a bicycle leaning on the wall of a house.
USER: How many birds are there? ASSISTANT: There are three birds in the tree and one on the roof.
USER: Is there a cat in the image? ASSISTANT: Yes, there is a cat in the image.
USER: Is there a boat in the image? ASSISTANT: No, there is no boat in the image.
USER: What colour is the car? ASSISTANT: The car is blue, and the door of the car is white.
USER: Describe the image in one word. ASSISTANT: A kitchen.
The light falls through the window on the table, where a cup of tea is getting cold.
A reader who looks at the table sees the cup first, then the book, and then the hand that holds it.
Nobody knows what the machine sees first; that is why we measure it, layer by layer and head by head.
The numbers 0, 1, 2, 3, 4, 5, 6, 7, 8 and 9 are written in the margin: 10, 200, 3000, 1984 and 2025.
"It's late," she said; "they're not coming, and I'll not wait, we've work to do and he'd know it."
Where the road turns to the left there is a bridge, and under the bridge there is the water.
One question, one answer. One image, many tokens. The answer is in the tokens of the image.
for (int i = 0; i < n; i++) { sum += a[i] * b[i]; }  /* a loop that everybody has written */
The train leaves the station at noon; the people on the platform wave until it is gone.
Birds, trees, houses, roads, rivers, hills, clouds, chairs, tables, windows, doors and lamps.
main object of the image: dog, cat, bird, horse, sheep, cow, bear, zebra, train, bus, boat, clock.
""".strip().split("\n")
