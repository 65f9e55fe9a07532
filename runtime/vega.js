// All that Vega-Lite takes of the package `vega`: maps, forces, trees and word clouds stay outside.
export {stringValue, hasOwnProperty, isObject, isString} from 'vega-util';
