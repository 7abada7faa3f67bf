// Up to 128 candidates of one row: one comparison an invocation and step.
const WG_SIZE = 64u;
const ROOM = 128u;
