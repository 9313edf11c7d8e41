"""Image in, model out: the request every generator understands, and the generators. Knows no money."""
