// Written by the release process: the build's id and what the page says of itself.
export const release = '@RELEASE@';
