"""From a decoded picture to the pixels of a clip: crop, scale, turn and colour conversion in one filter graph."""

from contextlib import ExitStack

import av

from soundvid.media.colour import BT2020_NCL, HDR, UNSPECIFIED, Colours, TableFile, needs_table
from soundvid.media.errors import MediaError
from soundvid.media.geometry import TURN_FILTERS, Framing, Geometry, crop_area, refitted

_SCALE = "flags=bicubic+accurate_rnd+bitexact"


class Scaler:
    """Applies a framing that was given for pictures of geometry `first`; the graph is rebuilt when pictures change."""

    def __init__(self, framing: Framing, first: Geometry, colours: Colours) -> None:
        self.framing, self.first, self.colours = framing, first, colours
        self._key: tuple[object, ...] | None = None
        self._graph: av.filter.Graph | None = None
        self._misframed = False

    def __call__(self, frame: av.VideoFrame, geometry: Geometry) -> tuple[av.VideoFrame, bool]:
        """The picture as yuv420p in BT.709, limited range, and whether the box had no place in it (then it is the
        centred area). Raises MediaError (`box_outside`, `too_small`, `unknown_colour`)."""
        transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
        if transfer == UNSPECIFIED:
            transfer = self.colours.transfer
        if primaries == UNSPECIFIED:
            primaries = self.colours.primaries
        meaning = (int(frame.colorspace), int(frame.color_range), transfer, primaries, frame.interlaced_frame)
        key = (geometry, frame.format.name, *meaning)
        if key != self._key:
            area, self._misframed = self._area(geometry)
            self._graph = self._build(frame, geometry, area, transfer, primaries)
            self._key = key
        assert self._graph is not None
        frame.pts = None
        self._graph.push(frame)
        return self._graph.vpull(), self._misframed

    def _area(self, geometry: Geometry) -> tuple[tuple[int, int, int, int], bool]:
        """The part of a picture that is kept, and whether it is another one than was asked for."""
        framing = refitted(self.framing, self.first, geometry)
        if geometry == self.first:
            return crop_area(self.framing, geometry), False
        try:
            if framing is not None:
                return crop_area(framing, geometry), False
            return crop_area(Framing(self.framing.width, self.framing.height), geometry), True
        except MediaError:  # a later picture that is too small refuses its clips, and not the source
            return (0, 0, geometry.width, geometry.height), True

    def _build(
        self,
        frame: av.VideoFrame,
        geometry: Geometry,
        area: tuple[int, int, int, int],
        transfer: int,
        primaries: int,
    ) -> av.filter.Graph:
        x, y, w, h = area
        width, height = self.framing.width, self.framing.height
        if geometry.orientation[0] == 0:
            width, height = height, width
        size = f"{width}:{height}:{_SCALE}"
        colour = frame.colorspace
        is_rgb = frame.format.is_rgb or "pal8" in frame.format.name
        from_matrix = ""
        if colour == UNSPECIFIED and not is_rgb and not frame.format.name.startswith("gray"):
            # Untagged: what television and every player assume by size.
            from_matrix = f":in_color_matrix={'bt709' if frame.height >= 720 else 'bt601'}"
        with ExitStack() as stack:
            graph = av.filter.Graph()
            graph.threads = 1
            chain = [
                graph.add(
                    "buffer",
                    f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
                    f":pixel_aspect=1/1:colorspace={int(colour)}:range={int(frame.color_range)}",
                ),
                graph.add("crop", f"{w}:{h}:{x}:{y}:exact=1"),
            ]
            to_bt709 = ":out_color_matrix=bt709:out_range=tv"
            if needs_table(transfer, primaries):
                if from_matrix and transfer in HDR:
                    from_matrix = f":in_color_matrix={BT2020_NCL}"
                table = stack.enter_context(TableFile(transfer, primaries))
                chain += [
                    graph.add("scale", f"{size}:out_range=pc{from_matrix}"),
                    graph.add("format", "gbrp16le"),
                    graph.add("lut3d", file=str(table), interp="tetrahedral"),
                    graph.add("scale", f"{size}{to_bt709}"),
                    graph.add("setparams", "color_primaries=bt709:color_trc=bt709"),
                ]
            else:
                # The matrix and the range are converted; primaries are not (it would cost 2 s a source for less
                # than one can see between 601 and 709).
                chain.append(graph.add("scale", f"{size}{to_bt709}{from_matrix}"))
            for step in filter(None, TURN_FILTERS[geometry.orientation].split(",")):
                name, _, argument = step.partition("=")
                chain.append(graph.add(name, argument))
            if frame.interlaced_frame:  # its lines were mixed by scaling; PyAV would convert it field by field
                chain.append(graph.add("setfield", "prog"))
            chain += [graph.add("setsar", "1"), graph.add("format", "yuv420p"), graph.add("buffersink")]
            for left, right in zip(chain, chain[1:], strict=False):
                left.link_to(right)
            try:
                graph.configure()
            except (av.error.FFmpegError, NotImplementedError) as error:
                raise MediaError(
                    "unknown_colour",
                    f"its colours cannot be converted ({frame.format.name}, matrix {int(colour)}): re-encode it",
                ) from error
        return graph
