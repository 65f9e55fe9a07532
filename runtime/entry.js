// The parts of Vega that the page's charts need. Expressions are interpreted, so that no text is ever evaluated as code.
import {extend} from 'vega-util';
import {transforms} from 'vega-dataflow';
import * as basic from 'vega-transforms';
import * as view from 'vega-view-transforms';
import * as encode from 'vega-encode';
import * as voronoi from 'vega-voronoi';
import {parse} from 'vega-parser';
import {View} from 'vega-view';
import {expressionInterpreter} from 'vega-interpreter';
import {compile} from 'vega-lite';

extend(transforms, basic, view, encode, voronoi);
globalThis.charts = {parse, View, expressionInterpreter, compile};
