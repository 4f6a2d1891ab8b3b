// Files imported with { type: "file" } are paths; the bundler carries the files along.
declare module "*.zst" {
  const path: string;
  export default path;
}
